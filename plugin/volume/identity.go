package volume

import "time"

// Identity is what tells a file that was not written to since it was last
// seen: the inode and the times of its last changes, of content and of
// anything.
type Identity struct {
	Type            Type
	Mode            uint32
	Size            int64
	Inode           uint64
	Modified        time.Time
	Changed         time.Time
	UID, GID, Links uint32
	// Sparse says that it has holes.
	Sparse bool
}
