package v1alpha1

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func reference(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../" + name)
	require.NoError(t, err)
	return string(data)
}

// fieldPaths are all paths of a type as the references write them. into says
// which structs are looked into.
func fieldPaths(t reflect.Type, path string, into func(reflect.Type) bool) []string {
	switch t.Kind() {
	case reflect.Pointer:
		return fieldPaths(t.Elem(), path, into)
	case reflect.Slice:
		return fieldPaths(t.Elem(), path+"[]", into)
	case reflect.Struct:
	default:
		return nil
	}
	var paths []string
	for _, f := range jsonFields(t, nil) {
		at := join(path, f.name)
		paths = append(paths, at)
		if child := t.FieldByIndex(f.index).Type; into(element(child)) {
			paths = append(paths, fieldPaths(child, at, into)...)
		}
	}
	return paths
}

// unsaid are the fields that a reference does not name.
func unsaid(text string, paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return strings.Contains(text, "`"+p+"`") })
}

func element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func TestThePolicyReferenceNamesEveryField(t *testing.T) {
	text := reference(t, "POLICY.md")
	ours := func(t reflect.Type) bool {
		return strings.HasSuffix(t.PkgPath(), "spec/v1alpha1") || strings.HasPrefix(t.Name(), "LabelSelector") && t.Kind() == reflect.Struct
	}
	paths := append(fieldPaths(reflect.TypeFor[BackupPolicySpec](), "spec", ours), fieldPaths(reflect.TypeFor[BackupRemoteSpec](), "spec", ours)...)
	paths = append(paths, fieldPaths(reflect.TypeFor[BackupRecipeSpec](), "spec", ours)...)
	require.Greater(t, len(paths), 70)
	require.Empty(t, unsaid(text, paths), "spec/POLICY.md says nothing about them")
	for _, value := range []string{OnErrorInclude, DependenciesReport, DependenciesIgnore, GroupByNamespace, GroupByNone, ConsistencyWorkload, MethodAuto, MethodSnapshot, MethodStream, MethodSkip, EventPodReady, EventPodTerminating,
		ScopePod, ScopeGroup, ScopeBackup, OnFailureAbort, OnFailureContinue, TransportAuto, TransportJob, TransportStream} {
		require.Contains(t, text, "`"+value+"`")
	}
}

func TestTheExamplesOfTheReferenceAreValid(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(reference(t, "POLICY.md"), -1)
	require.Greater(t, len(blocks), 2)
	for _, b := range blocks {
		_, err := Decode("POLICY.md", []byte(b[1]))
		require.NoError(t, err)
	}
}

func TestTheExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	require.NoError(t, err)
	more, err := filepath.Glob("../../examples/*/*.yaml")
	require.NoError(t, err)
	ours := 0
	for _, file := range append(files, more...) {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		d, err := Decode(file, data)
		require.NoError(t, err)
		ours += len(d.Policies) + len(d.Remotes) + len(d.Recipes)
	}
	require.Greater(t, ours, 4)
}

func TestTheReportReferenceNamesEveryFieldAndOutcome(t *testing.T) {
	text := reference(t, "REPORT.md")
	paths := fieldPaths(reflect.TypeFor[Document](), "", func(t reflect.Type) bool { return t.Kind() == reflect.Struct && t.Name() != "Ref" })
	require.Greater(t, len(paths), 70)
	require.Empty(t, unsaid(text, append(paths, fieldPaths(reflect.TypeFor[Ref](), "", func(reflect.Type) bool { return false })...)), "spec/REPORT.md says nothing about them")
	source, err := os.ReadFile("report.go")
	require.NoError(t, err)
	outcomes := regexp.MustCompile(`(?m)^\tOutcome\w+ +Outcome = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(outcomes), 15)
	for _, o := range outcomes {
		require.Contains(t, text, "| `"+o[1]+"`", "spec/REPORT.md does not explain it")
	}
}
