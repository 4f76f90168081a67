package v1alpha1

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheRewriteReferenceNamesEveryField(t *testing.T) {
	text := reference(t, "REWRITE.md")
	ours := func(t reflect.Type) bool {
		return strings.HasSuffix(t.PkgPath(), "spec/v1alpha1") && t != reflect.TypeFor[RewriteMatch]()
	}
	paths := fieldPaths(reflect.TypeFor[RewriteSetSpec](), "spec", ours)
	require.Greater(t, len(paths), 40)
	for _, p := range append(paths, fieldPaths(reflect.TypeFor[RewriteMatch](), "spec.rules[].match", ours)...) {
		require.Contains(t, text, "`"+p+"`", "spec/REWRITE.md says nothing about it")
	}
	for _, value := range []string{TrackingAuto, TrackingKeep, TrackingDrop, NodePortsClear, TextEnv, TextArgs, TextConfigMaps, TextSecrets, TextAnnotations,
		HoldsImage, HoldsHost, HoldsNamespace, HoldsStorageClass, HoldsText, PlatformAWS, PlatformAzure, PlatformGoogle, PlatformOpenShift, PlatformGeneric} {
		require.Contains(t, text, "`"+value+"`")
	}
}

func TestTheExamplesOfRewritingAreValid(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(reference(t, "REWRITE.md"), -1)
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		_, err := Decode("REWRITE.md", []byte(b[1]))
		require.NoError(t, err)
	}
	files, err := filepath.Glob("../../examples/rewrite*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 2)
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		d, err := Decode(f, data)
		require.NoError(t, err)
		require.Len(t, d.Rewrites, 1)
	}
}

func TestFieldPaths(t *testing.T) {
	for path, want := range map[string]int{"spec": 1, "a.b.c": 3, "list[]": 2, "list[0].x": 3, "list[name=a.b].x": 3, `labels["a.b/c"]`: 2} {
		p, err := ParseFieldPath(path)
		require.NoError(t, err, path)
		require.Len(t, p, want, path)
		require.Equal(t, path, p.String())
	}
	for _, path := range []string{"", ".", "a..b", "a.", "a[", `a["x`, "a[x]", "a/b", "[]x", "a[]b"} {
		_, err := ParseFieldPath(path)
		require.Error(t, err, path)
	}
	overlaps := func(a, b string) bool {
		p, err := ParseFieldPath(a)
		require.NoError(t, err)
		q, err := ParseFieldPath(b)
		require.NoError(t, err)
		return p.Overlaps(q) && q.Overlaps(p)
	}
	require.True(t, overlaps("a.b", "a.b.c"))
	require.True(t, overlaps("a[].c", "a[name=x].c"))
	require.True(t, overlaps("a[0]", "a[name=x]"))
	require.False(t, overlaps("a.b", "a.c"))
	require.False(t, overlaps("a[0]", "a[1]"))
	require.False(t, overlaps("a[name=x]", "a[name=y].b"))
}
