package v1alpha1

import (
	"os"
	"reflect"
	"regexp"
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
	require.Greater(t, len(paths), 70)
	for _, p := range paths {
		require.Contains(t, text, "`"+p+"`", "spec/POLICY.md says nothing about it")
	}
	for _, value := range append(recipes, OnErrorInclude, DependenciesReport, DependenciesIgnore, GroupByNamespace, GroupByNone, ConsistencyWorkload, MethodAuto, MethodSnapshot, MethodStream, MethodSkip, OnPodReady, OnPodTerminating) {
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

func TestTheReportReferenceNamesEveryFieldAndOutcome(t *testing.T) {
	text := reference(t, "REPORT.md")
	paths := fieldPaths(reflect.TypeFor[Document](), "", func(t reflect.Type) bool { return t.Kind() == reflect.Struct && t.Name() != "Ref" })
	require.Greater(t, len(paths), 70)
	for _, p := range append(paths, fieldPaths(reflect.TypeFor[Ref](), "", func(reflect.Type) bool { return false })...) {
		require.Contains(t, text, "`"+p+"`", "spec/REPORT.md says nothing about it")
	}
	source, err := os.ReadFile("report.go")
	require.NoError(t, err)
	outcomes := regexp.MustCompile(`(?m)^\tOutcome\w+ +Outcome = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(outcomes), 15)
	for _, o := range outcomes {
		require.Contains(t, text, "| `"+o[1]+"`", "spec/REPORT.md does not explain it")
	}
}
