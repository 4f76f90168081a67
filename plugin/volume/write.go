package volume

// Extra says what becomes of files in the target that the stream does not have.
type Extra uint8

const (
	// Keep leaves them.
	Keep Extra = iota
	// Remove deletes them, once the directory that holds them is complete.
	// lost+found at the root is always left.
	Remove
)

// WriteOptions say how a tree is written.
type WriteOptions struct {
	Extra Extra
}

// Report says what WriteTree did.
type Report struct {
	// Files counts the entries that were written, directories included.
	Files int64
	// Bytes is the length of the files, holes included.
	Bytes int64
	// Issues are those of the sender, followed by those of the target.
	Issues []Issue
}

// Lost says that content is missing in the target.
func (r Report) Lost() bool {
	for _, i := range r.Issues {
		if i.Kind.Lost() {
			return true
		}
	}
	return false
}
