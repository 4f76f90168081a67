package graph

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// namesNothing are fields of built-in kinds that look like a reference and
// are none, or that a backup has no use for.
var namesNothing = []struct{ pattern, why string }{
	{`volumes\[\]\.(azureDisk|azureFile|flocker|gcePersistentDisk|iscsi|scaleIO|storageos|vsphereVolume)\.\w+Name$`, "a disk outside of the cluster"},
	{`PersistentVolume spec\.(azureDisk|azureFile|flocker|gcePersistentDisk|iscsi|scaleIO|storageos|vsphereVolume)\.\w+Name$`, "a disk outside of the cluster"},
	{`(fileKeyRef\.volumeName|resourceFieldRef\.containerName|targetContainerName)$`, "within the same pod"},
	{`(resizePolicy\[\]\.resourceName|runAsUserName|signerName|schedulerName)$`, "not an object"},
	{`(emplate|emplate\.spec\.volumes\[\]\.ephemeral\.volumeClaimTemplate|spec\.volumes\[\]\.ephemeral\.volumeClaimTemplate|volumeClaimTemplates\[\])\.metadata\.(generateName|ownerReferences\[\]\.name)$`, "templates own nothing"},
	{`^extensions/`, "a group that no server has had for years"},
	{`\]\.(basic\.)?nodeName$|^resource.k8s.io/ResourceSlice spec.nodeName`, "nodes and their devices are not brought back"},
	{`^(/Binding|/Node|authentication.k8s.io/\w+|resource.k8s.io/ResourcePoolStatusRequest|coordination.k8s.io/LeaseCandidate|certificates.k8s.io/PodCertificateRequest|lifecycle.k8s.io/\w+|storage.k8s.io/VolumeAttachment) `, "lives for a moment, or is made by the cluster"},
	{`(scopeName|onExitCodes.containerName|metrics\[\].(containerResource|resource).name|driverName|extendedResourceName|templateName)$`, "not an object"},
	{`^flowcontrol.apiserver.k8s.io/FlowSchema spec.rules\[\].subjects\[\].(user|group).name`, "users and groups are not objects"},
	{`^resource.k8s.io/ResourceClaimTemplate spec.metadata`, "templates own nothing"},
	{`^/Service spec\.(externalName|loadBalancerClass)$`, "a host, read as a call; and a word for the cloud's controller"},
}

// Every string field of every built-in kind that looks like the name of an
// object is in the table, or has a reason not to be.
func TestTableCoversTheBuiltInKinds(t *testing.T) {
	have := map[string]bool{}
	for _, r := range Table {
		have[r.Group+"/"+r.Kind+" "+regexp.MustCompile(`\[[a-z]+=[^]]*\]`).ReplaceAllString(r.Path, "[]")] = true
	}
	missed := map[string]bool{}
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		if strings.HasSuffix(gvk.Kind, "List") || gvk.Version == "__internal" || reflect.PointerTo(typ).Implements(reflect.TypeFor[metav1.ListInterface]()) {
			continue
		}
		if _, ok := typ.FieldByName("ObjectMeta"); !ok {
			continue
		}
		eachName(typ, "", "", nil, func(path string) {
			line := gvk.Group + "/" + gvk.Kind + " " + path
			if have[line] {
				return
			}
			for _, n := range namesNothing {
				if regexp.MustCompile(n.pattern).MatchString(line) {
					return
				}
			}
			missed[line] = true
		})
	}
	var lines []string
	for l := range missed {
		lines = append(lines, l)
	}
	slices.Sort(lines)
	require.Empty(t, lines, "in k8s.io/api and not in Table:\n%s", strings.Join(lines, "\n"))
}

var looksLikeName = regexp.MustCompile(`(Name|Class|secretName|claimName|endpoints|serviceAccount)$`)

// eachName visits the paths of string fields that may name an object: called
// ...Name or the like, or "name" in a type that is a reference.
func eachName(typ reflect.Type, path, field string, above []reflect.Type, visit func(string)) {
	switch typ.Kind() {
	case reflect.Pointer:
		eachName(typ.Elem(), path, field, above, visit)
	case reflect.Slice:
		eachName(typ.Elem(), path+"[]", field, above, visit)
	case reflect.String:
		if looksLikeName.MatchString(field) {
			visit(path)
		}
	case reflect.Struct:
		if slices.Contains(above, typ) || typ.Name() == "ObjectMeta" && len(above) < 2 {
			return
		}
		above = append(slices.Clone(above), typ)
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "status" || name == "-" {
				continue
			}
			next := strings.TrimPrefix(path+"."+name, ".")
			if name == "" {
				next = path
			}
			if name == "name" && strings.Contains(fmt.Sprint(typ.Name()), "Ref") || name == "name" && regexp.MustCompile(`(Selector|EnvSource|Projection|Source|Subject|Backend)$`).MatchString(typ.Name()) {
				visit(next)
				continue
			}
			eachName(f.Type, next, name, above, visit)
		}
	}
}

func TestTableRowsAreSound(t *testing.T) {
	order := map[string]bool{}
	seen := map[Row]bool{}
	for _, r := range Table {
		_, err := checkRow(r)
		require.NoError(t, err)
		require.False(t, seen[r], "twice: %+v", r)
		seen[r] = true
		if first, ok := order[r.Type]; ok {
			require.Equal(t, first, r.Unordered, "rows of type %s do not agree on the order: %s %s", r.Type, r.Kind, r.Path)
		}
		order[r.Type] = r.Unordered
		_, ok := phrases[r.Type]
		require.True(t, ok || r.Loose, "no phrase for %s", r.Type)
		if r.Cluster {
			require.Empty(t, r.NamespaceField, "%s %s", r.Kind, r.Path)
			require.True(t, r.ToKind == "" || clusterKinds[groupKind{r.ToGroup, r.ToKind}], "%+v", r)
		}
	}
	require.Equal(t, TypeNamespace, Table[rowNamespace].Type)
	require.Equal(t, TypeOwner, Table[rowOwner].Type)
	for _, r := range impliedRows {
		if first, ok := order[r.Type]; ok {
			require.Equal(t, first, r.Unordered, r.Type)
		}
	}
}
