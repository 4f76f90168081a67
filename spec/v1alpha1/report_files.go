package v1alpha1

// StoredVolume is one volume of a backup, as ls -o json lists it.
type StoredVolume struct {
	// Name is what ls, cat and restore take: namespace/claim, or
	// namespace/pod/volume.
	Name string `json:"name"`
	// Ref is the claim, or the pod of a volume that lives and dies with it;
	// Volume is then its name there.
	Ref    Ref    `json:"ref"`
	Volume string `json:"volume,omitempty"`
	// Device says that it is a block device: one file, its content.
	Device bool  `json:"device,omitempty"`
	Files  int64 `json:"files"`
	Bytes  int64 `json:"bytes"`
	// Snapshot is the id in the repository.
	Snapshot string `json:"snapshot"`
}

// StoredFile is one file of a volume, as ls -o json lists it.
type StoredFile struct {
	// Path is relative to the volume. A name that is no text is quoted, and
	// PathBytes are its bytes; so for Link, the target of a symbolic link, or
	// the first name of a hard link.
	Path      string `json:"path"`
	PathBytes []byte `json:"pathBytes,omitempty"`
	Type      string `json:"type"`
	// Mode is four octal digits.
	Mode string `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Size is the length of a file in bytes, holes included.
	Size int64 `json:"size"`
	// Modified is RFC 3339 with nanoseconds, UTC; absent where not known.
	Modified  string `json:"modified,omitempty"`
	Link      string `json:"link,omitempty"`
	LinkBytes []byte `json:"linkBytes,omitempty"`
}
