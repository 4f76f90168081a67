package snapshot

import (
	"strings"
	"testing"
)

// The class decides what becomes of a snapshot and what it costs, so it is
// never guessed between two.
func TestClass(t *testing.T) {
	classes := []Class{
		{Name: "alone", Driver: "one"},
		{Name: "common", Driver: "many"}, {Name: "gold", Driver: "many", Default: true}, {Name: "tin", Driver: "many"},
		{Name: "first", Driver: "twice", Default: true}, {Name: "second", Driver: "twice", Default: true},
		{Name: "left", Driver: "undecided"}, {Name: "right", Driver: "undecided"},
		{Name: "other-default", Driver: "stranger", Default: true},
	}
	s := &Support{Classes: classes, GroupClasses: classes, GroupVersion: "v1"}
	for name, x := range map[string]struct{ driver, wanted, class, problem string }{
		"the only one":              {"one", "", "alone", ""},
		"the only one, by name":     {"one", "alone", "alone", ""},
		"the default":               {"many", "", "gold", ""},
		"another than the default":  {"many", "tin", "tin", ""},
		"one of two without":        {"undecided", "right", "right", ""},
		"another driver's":          {"one", "gold", "", "is of driver many"},
		"another driver's default":  {"one", "other-default", "", "is of driver stranger"},
		"it does not exist":         {"one", "alon", "", "does not exist (there is: alone, common"},
		"two defaults":              {"twice", "", "", "first, second"},
		"no default":                {"undecided", "", "", "none is the default: left, right"},
		"a driver without":          {"nobody", "", "", "no VolumeSnapshotClass is of driver nobody"},
		"a driver without, by name": {"nobody", "alone", "", "is of driver one"},
	} {
		got, err := s.Class(x.driver, x.wanted)
		grouped, groupErr := s.GroupClass(x.driver, x.wanted)
		if x.problem == "" && (err != nil || groupErr != nil || got != x.class || grouped != x.class) {
			t.Errorf("%s: %s, %s (%v, %v)", name, got, grouped, err, groupErr)
		}
		if x.problem != "" {
			if err == nil || !strings.Contains(err.Error(), x.problem) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			if want := strings.ReplaceAll(x.problem, "VolumeSnapshotClass", "VolumeGroupSnapshotClass"); groupErr == nil || !strings.Contains(groupErr.Error(), want) {
				t.Errorf("%s, for a group: %q, %v", name, grouped, groupErr)
			}
		}
	}
	none := &Support{reason: "the cluster does not serve it", groupReason: "only v1beta1 is served"}
	if _, err := none.Class("one", ""); err == nil || !strings.Contains(err.Error(), "does not serve it") {
		t.Error(err)
	}
	if _, err := none.GroupClass("one", ""); err == nil || !strings.Contains(err.Error(), "v1beta1") {
		t.Error(err)
	}
}
