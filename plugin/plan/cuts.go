package plan

// What the bytes of a volume are read from, as lines name it.
const (
	cutGroup    = "GroupSnapshot"
	cutSnapshot = "Snapshot"
	cutLive     = "Live"
)
