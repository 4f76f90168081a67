package argocd

import (
	"bytes"
	"testing"
)

func TestCompare(t *testing.T) {
	const head = `"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"mill","namespace":"stream"}`
	deployment := func(container string) string {
		return `{` + head + `,"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[` + container + `]}}}}`
	}
	custom := func(spec string) string {
		return `{"apiVersion":"mill.example.org/v1","kind":"Wheel","metadata":{"name":"w","namespace":"stream"},"spec":` + spec + `}`
	}
	for _, c := range []struct {
		name, want, live string
		differs          bool
	}{
		{"equal", deployment(`{"name":"c","image":"i"}`), deployment(`{"name":"c","image":"i"}`), false},
		{"a quantity in another notation", deployment(`{"name":"c","image":"i","resources":{"limits":{"cpu":"0.5"}}}`), deployment(`{"name":"c","image":"i","resources":{"limits":{"cpu":"500m"}}}`), false},
		{"another image", deployment(`{"name":"c","image":"i"}`), deployment(`{"name":"c","image":"j"}`), true},
		{"only live has a variable", deployment(`{"name":"c","image":"i"}`), deployment(`{"name":"c","image":"i","env":[{"name":"X","value":"1"}]}`), true},
		{"only live has a container", deployment(`{"name":"c","image":"i"}`), deployment(`{"name":"c","image":"i"},{"name":"d","image":"i"}`), true},
		{"live lacks a container", deployment(`{"name":"c","image":"i"},{"name":"d","image":"i"}`), deployment(`{"name":"c","image":"i"}`), true},
		{"custom resource, equal", custom(`{"n":9007199254740993,"s":"1"}`), custom(`{"s":"1","n":9007199254740993}`), false},
		{"custom resource, numbers that are one float", custom(`{"n":9007199254740993}`), custom(`{"n":9007199254740992}`), true},
		{"custom resource, a string that looks like a number", custom(`{"s":"1"}`), custom(`{"s":1}`), true},
		{"custom resource, only live has a field", custom(`{}`), custom(`{"s":"1"}`), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Compare(t.Context(), []byte(c.want), []byte(c.live))
			if err != nil || got.Differs != c.differs || got.Differs == bytes.Equal(got.Want, got.Live) {
				t.Errorf("differs %v, error %v, want %v\n%s\n%s", got.Differs, err, c.differs, got.Want, got.Live)
			}
		})
	}
}

// Nothing of a Secret's values may be read from a difference, only where they
// are the same.
func TestCompareMasksSecrets(t *testing.T) {
	secret := func(data string) []byte {
		return []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"stream"},"data":` + data + `}`)
	}
	got, err := Compare(t.Context(), secret(`{"same":"aGVyb24=","other":"c3BhcnJvdw=="}`), secret(`{"same":"aGVyb24=","other":"ZmluY2g="}`))
	if err != nil || !got.Differs {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, value := range []string{"aGVyb24", "c3BhcnJvdw", "ZmluY2g", "heron", "sparrow", "finch"} {
		if bytes.Contains(got.Want, []byte(value)) || bytes.Contains(got.Live, []byte(value)) {
			t.Errorf("%s is shown:\n%s\n%s", value, got.Want, got.Live)
		}
	}
	if got, err := Compare(t.Context(), secret(`{"same":"aGVyb24="}`), secret(`{"same":"aGVyb24="}`)); err != nil || got.Differs {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Compare(t.Context(), secret(`{"same":"aGVyb24="}`), nil); err != nil || !got.Differs || got.Live != nil || bytes.Contains(got.Want, []byte("aGVyb24")) {
		t.Errorf("%+v, %v", got, err)
	}
}
