package v1alpha1

// RewriteReport is what rewrite --explain prints: which rule changed which
// field of which object.
type RewriteReport struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Result     Result            `json:"result"`
	ExitCode   int               `json:"exitCode"`
	Objects    []RewrittenObject `json:"objects"`
	// Warnings are about the set as a whole: rules that matched nothing, images
	// that no map is about.
	Warnings []string `json:"warnings,omitempty"`
}

// RewrittenObject is one object of a RewriteReport.
type RewrittenObject struct {
	// Ref is what it was called, NewRef what it is called now.
	Ref     Ref           `json:"ref"`
	NewRef  Ref           `json:"newRef"`
	Changes []FieldChange `json:"changes"`
	// Mentions are fields whose text holds an old name and was left alone.
	Mentions []string `json:"mentions,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Error is why the object could not be rewritten, or empty.
	Error string `json:"error,omitempty"`
}

// FieldChange is one field that a rule changed. The content of Secrets is
// hidden.
type FieldChange struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
	Rule  string `json:"rule"`
}
