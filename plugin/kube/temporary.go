package kube

const (
	// LabelTemporary marks what a run makes for its own purposes and removes
	// at its end.
	LabelTemporary = "kubectl-backup.io/temporary"
	// LabelRun names the backup that it was made for.
	LabelRun = "kubectl-backup.io/run"
	// LabelCut stands on an application's claim for the moment in which a group
	// snapshot selects it by that label. The claim then also has
	// AnnotationCutOwner, which says whose label it is.
	LabelCut           = "kubectl-backup.io/cut"
	AnnotationCutOwner = "kubectl-backup.io/cut-owner"
)
