package kube

const (
	// LabelTemporary marks what a run makes for its own purposes and removes
	// at its end.
	LabelTemporary = "kubectl-backup.io/temporary"
	// LabelRun names the backup that it was made for.
	LabelRun = "kubectl-backup.io/run"
)
