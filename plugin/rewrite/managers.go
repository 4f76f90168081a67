package rewrite

import (
	"encoding/json"
	"fmt"
)

// Managers is who owned the fields of an object where it was saved.
type Managers struct {
	// Entries are metadata.managedFields as they are to be put back, without
	// their times and without what belongs to a status that is not restored.
	Entries []any
	// Creator is set where one manager had written everything by plain
	// requests: creating the object in its name gives the same entries.
	Creator string
}

// ManagersOf reads the owners of a draft's fields; it comes before Clean.
func ManagersOf(d *Draft, keepStatus bool) Managers {
	var m Managers
	list, _ := mapAt(d.Content, "metadata")["managedFields"].([]any)
	for _, e := range list {
		entry, ok := e.(map[string]any)
		if !ok || entry["subresource"] == "status" && !keepStatus {
			continue
		}
		kept := make(map[string]any, len(entry))
		for k, v := range entry {
			if k != "time" {
				kept[k] = v
			}
		}
		m.Entries = append(m.Entries, kept)
	}
	if len(m.Entries) == 1 {
		entry := m.Entries[0].(map[string]any)
		name, _ := entry["manager"].(string)
		sub, _ := entry["subresource"].(string)
		if entry["operation"] == "Update" && sub == "" {
			m.Creator = name
		}
	}
	return m
}

// StatusManager names a manager that owned a draft's status, or is empty.
func StatusManager(d *Draft) string {
	list, _ := mapAt(d.Content, "metadata")["managedFields"].([]any)
	for _, e := range list {
		entry, _ := e.(map[string]any)
		if _, owns := mapAt(entry, "fieldsV1")["f:status"]; owns && entry["subresource"] == "status" {
			name, _ := entry["manager"].(string)
			return name
		}
	}
	return ""
}

// ownedBy answers whether any manager claims a field, by its path in the
// notation of managedFields. What a server filled in is owned by nobody.
func ownedBy(entries []any, path []string) bool {
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		fields := mapAt(entry, "fieldsV1")
		if parent := mapAt(fields, path[:len(path)-1]...); parent != nil {
			if _, ok := parent[path[len(path)-1]]; ok {
				return true
			}
		}
	}
	return false
}

// portKey is how managedFields name an entry of a Service's ports.
func portKey(p map[string]any) string {
	port, _ := p["port"].(json.Number)
	protocol, _ := p["protocol"].(string)
	return fmt.Sprintf(`k:{"port":%s,"protocol":%q}`, port, protocol)
}
