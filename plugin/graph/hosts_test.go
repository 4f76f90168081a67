package graph

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each text stands as an environment variable of that name, in a ConfigMap
// and in a Secret under that key; the Services are store and store-2 in the
// namespace of the caller, and far in namespace lands.
var callTable = []struct {
	key, text string
	want      string
}{
	{"DB_HOST", "store", "store"},
	{"DB", "store", ""}, // a database of that name is more likely
	{"CACHE", "store", "store"},
	{"CACHE", " store\n", "store"},
	{"CACHE", "store.", "store"},
	{"CACHE", "store:6379", "store"},
	{"POSTGRES_DB", "store", ""},
	{"POSTGRES_USER", "store", ""},
	{"username", "store", ""},
	{"APP_NAME", "store", ""},
	{"SERVER_NAME", "store", "store"},
	{"DB_HOSTNAME", "store", "store"},
	{"X", "STORE", ""},
	{"X", "Store", ""},
	{"X", "store_old", ""},
	{"X", "bookstore", ""},
	{"X", "the store is closed", ""},
	{"X", "store.tulip", "store"},
	{"X", "far.lands", "far"},
	{"X", "far", ""},
	{"X", "far.lands.svc", "far"},
	{"X", "far.lands.svc.cluster.local", "far"},
	{"X", "far.lands.svc.corp.example.org:8080", "far"},
	{"X", "see far.lands.svc for more", "far"},
	{"X", "far.lands.svc.cluster.local.", "far"},
	{"X", "far.elsewhere.svc", ""},
	{"X", "store.svc", ""},
	{"X", "http://store", "store"},
	{"X", "http://store/", "store"},
	{"X", "http://store:8080/a?b=c", "store"},
	{"X", "https://far.lands/x", "far"},
	{"X", "https://example.org/store", ""},
	{"X", "https://store.example.org/", ""},
	{"X", "postgres://u:p@store/db", "store"},
	{"X", "postgres://store:store@db/x", ""},
	{"X", "postgresql://u:p%40x@store:5432,store-2:5432/db?sslmode=off", "store store-2"},
	{"X", "jdbc:postgresql://store:5432/db", "store"},
	{"X", "mongodb://store-0.store,store-1.store:27017/x", "store"},
	{"X", "redis://:pw@store:6379/0", "store"},
	{"X", "amqp://guest:guest@far.lands.svc:5672/%2f", "far"},
	{"X", "u:p@tcp(store:3306)/db?parseTime=true", "store"},
	{"X", "mysql://u:p@tcp(store:3306)/db", "store"},
	{"X", "host=store port=5432 user=u dbname=d", "store"},
	{"X", "host=db port=5432 user=store dbname=store", ""},
	{"X", "Server=store;Port=5432;Database=db", "store"},
	{"X", "Data Source=store;User=u", "store"},
	{"BROKERS", "store:9092,store-2:9092", "store store-2"},
	{"BROKERS", "store, store-2", "store store-2"},
	{"X", "[\"store:9092\", \"store-2:9092\"]", "store store-2"},
	{"X", "image: registry/store:1234", ""},
	{"X", "store:v2", ""},
	{"X", "10.0.0.1:80", ""},
	{"X", "user/pw@store:1521/XE", "store"},
	{"X", "postmaster@store", ""},
	{"app.yaml", "db:\n  host: store\n  name: far\n", "store"},
	{"app.yaml", "db:\n  name: store\n", ""},
	{"app.json", `{"db": {"host": "store", "user": "store-2"}}`, "store"},
	{"app.ini", "[db]\nhost = store\nuser = store-2\n", "store"},
	{"app.toml", "url = 'store-2:80'\nserver=\"store\"", "store store-2"},
	{"app.properties", "spring.datasource.url=jdbc:mysql://store/x\nkafka.bootstrap.servers=store-2:9092", "store store-2"},
	{"nginx.conf", "upstream u { server store:80; }\nlocation / { proxy_pass http://store-2; }", "store store-2"},
	{"haproxy.cfg", "server s1 store:80 check", "store"},
	{"run.sh", "#!/bin/sh\ncurl http://store/x | tee /tmp/store-2\n", "store"},
	{"x", "caf\u00e9store:80", ""},
	{"x", "a \"quoted\\\" \u003chttp://store\u003e\t", "store"},
	{"x", "-store:80", ""},
	{"x", strings.Repeat("a", 300) + ".far.lands.svc", ""},
}

const callTargets = `
apiVersion: v1
kind: Service
metadata: {name: store, namespace: tulip}
---
apiVersion: v1
kind: Service
metadata: {name: store-2, namespace: tulip}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: lands}
`

func TestCallsInTexts(t *testing.T) {
	quote := func(s string) string {
		b, err := json.Marshal(s)
		require.NoError(t, err)
		return string(b)
	}
	pod := func(container string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"tulip"},"spec":{"containers":[{"name":"c",` + container + `}]}}`
	}
	for _, row := range callTable {
		key, text := quote(row.key), quote(row.text)
		secret := quote(base64.StdEncoding.EncodeToString([]byte(row.text)))
		for place, input := range map[string]string{
			"env": pod(`"env":[{"name":` + key + `,"value":` + text + `}]`),
			"config": `{"kind":"ConfigMap","metadata":{"namespace":"tulip","annotations":{"data":"{\"store:80\": \\"},"name":"m"},"apiVersion":"v1","data":{"other":"","` +
				row.key + `":` + text + `},"binaryData":{"x":"c3RvcmU6ODA="}}` + "\n---\n" + pod(`"envFrom":[{"configMapRef":{"name":"m"}}]`),
			"secret": `{"apiVersion":"v1","kind":"Secret","data":{"bad":"%%",` + key + `:` + secret + `},"metadata":{"namespace":"tulip","name":"m"}}` +
				"\n---\n" + pod(`"env":[{"name":"E","valueFrom":{"secretKeyRef":{"name":"m","key":"k"}}}]`),
		} {
			g := build(t, Options{}, callTargets, input)
			var got []string
			for _, e := range g.EdgesFrom(ref(t, g, "Pod tulip/p")) {
				if e.Type == TypeCalls {
					require.True(t, e.Strong)
					got = append(got, e.To.Name)
				}
			}
			require.Equal(t, row.want, strings.Join(got, " "), "%s %q=%q", place, row.key, row.text)
		}
	}
}

func TestCallsInCommands(t *testing.T) {
	for text, want := range map[string]string{
		`"command":["psql","-h","store"]`:                                         "spec.containers[0].command[2]",
		`"args":["--db-host","store"]`:                                            "spec.containers[0].args[1]",
		`"args":["--db-host=store"]`:                                              "spec.containers[0].args[0]",
		`"args":["--listen",":80","--upstream=http://store:80/"]`:                 "spec.containers[0].args[2]",
		`"command":["sh","-c","exec run --url http://store"]`:                     "spec.containers[0].command[2]",
		`"args":["npm","run","store"]`:                                            "",
		`"args":["--name","store"]`:                                               "",
		`"args":["--name=store"]`:                                                 "",
		`"env":[{"name":"A","value":"$(B)"},{"name":"H","value":"http://store"}]`: "spec.containers[0].env[H]",
	} {
		for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
			g := build(t, Options{}, callTargets, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"tulip"},"spec":{"`+list+`":[{`+text+`}]}}`)
			got := ""
			for _, e := range g.EdgesFrom(ref(t, g, "Pod tulip/p")) {
				if e.Type == TypeCalls {
					got = strings.Replace(e.Field, list, "containers", 1)
				}
			}
			require.Equal(t, want, got, text)
		}
	}
}

// A workload that knows its own Service does not call anyone, and an alias
// stands for what it leads to.
func TestCallsOfOneselfAndThroughAnAlias(t *testing.T) {
	workload := func(name, text string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"` + name + `","namespace":"tulip"},"spec":{"template":{"metadata":{"labels":{"app":"` +
			name + `"}},"spec":{"containers":[{"env":[{"name":"URL","value":"` + text + `"}]}]}}}}` + "\n---\n" +
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"` + name + `","namespace":"tulip"},"spec":{"selector":{"app":"` + name + `"}}}`
	}
	alias := `{"apiVersion":"v1","kind":"Service","metadata":{"name":"nick","namespace":"tulip"},"spec":{"type":"ExternalName","externalName":"b.tulip.svc.cluster.local"}}`
	g := build(t, Options{}, workload("a", "http://nick"), workload("b", "http://b:80"), workload("c", "http://example.org"), alias)
	require.Equal(t, []string{
		"Service tulip/a -selects-> Deployment.apps tulip/a @spec.selector",
		"Service tulip/b -selects-> Deployment.apps tulip/b @spec.selector",
		"Service tulip/c -selects-> Deployment.apps tulip/c @spec.selector",
		"Service tulip/nick -routes-to-> Service tulip/b @spec.externalName",
		"Deployment.apps tulip/a =calls=> Service tulip/nick @spec.template.spec.containers[0].env[URL]",
	}, shorts(g.Edges()))
	groups, err := g.Groups(g.Closure(g.Nodes(), Include), Grouping{})
	require.NoError(t, err)
	require.Equal(t, []string{"Deployment.apps tulip/a", "Deployment.apps tulip/b"}, names(groups[0].Workloads))
	require.Equal(t, []string{"Deployment.apps tulip/c"}, names(groups[1].Workloads))
	a, b := ref(t, g, "Deployment.apps tulip/a"), ref(t, g, "Deployment.apps tulip/b")
	last := groups[0].Waves[len(groups[0].Waves)-1]
	require.Equal(t, "Deployment.apps tulip/a", last[len(last)-1].String(), "%v %v", a, b)
}
