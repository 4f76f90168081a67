package graph

import (
	"bytes"
	"strings"
)

// Finding hosts in text.
//
// A name with an "svc" label (db.shop.svc, db.shop.svc.cluster.local) is a
// Service wherever it stands. Shorter names (db, db.shop) are ordinary words
// too, so they count only where a host stands: as a whole value, before a
// port, as the host of a URL or DSN, or as the value of a setting whose name
// says host. Whether a Service of that name exists is asked later.

// hostChar marks what host names are made of; wordChar what may not touch one.
var hostChar, wordChar = func() (h, w [256]bool) {
	for c := 0; c < 256; c++ {
		h[c] = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.'
		w[c] = h[c] || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
	}
	return
}()

// hostsIn calls found for each candidate in text. key is the name of the
// setting that text is the value of, or empty. bare says whether a text that
// is nothing but a name may be a host (a command's argument says nothing
// about what it is).
func hostsIn(text []byte, key string, bare bool, found func([]byte)) {
	trimmed := bytes.TrimSpace(text)
	if bare && settingMayBeHost(key) && len(trimmed) <= 1024 && isNameList(trimmed) {
		eachPart(trimmed, func(item []byte) { emit(bytes.TrimSpace(item), found) })
		return
	}
	for i := 0; i < len(text); {
		if !hostChar[text[i]] {
			i++
			continue
		}
		start := i
		for i < len(text) && hostChar[text[i]] {
			i++
		}
		token := text[start:i]
		if start >= 3 && text[start-1] == '/' && text[start-2] == '/' && text[start-3] == ':' {
			i = authority(text, start, found)
			continue
		}
		if len(token) > 253 || start > 0 && wordChar[text[start-1]] || i < len(text) && wordChar[text[i]] {
			continue
		}
		if bytes.Contains(token, []byte(".svc")) || standsAsHost(text, start, i) {
			emit(token, found)
		}
	}
}

// authority reads user:password@host:port,host2:port2 from start and returns
// where it ends.
func authority(text []byte, start int, found func([]byte)) int {
	end := start
	for end < len(text) && !bytes.ContainsRune([]byte("/?#\"'`<>()[]{}|\\ \t\r\n;"), rune(text[end])) {
		end++
	}
	hosts := text[start:end]
	if at := bytes.LastIndexByte(hosts, '@'); at >= 0 {
		hosts = hosts[at+1:]
	}
	// A driver's notation may stand inside: user:password@tcp(host:3306).
	next := end
	eachPart(hosts, func(host []byte) {
		if colon := bytes.IndexByte(host, ':'); colon >= 0 {
			host = host[:colon]
		}
		emit(host, found)
	})
	return next
}

// eachPart visits what stands between commas. The parts are plain slices of
// text, by whose capacity EditHosts knows where they stand.
func eachPart(text []byte, visit func([]byte)) {
	for {
		comma := bytes.IndexByte(text, ',')
		if comma < 0 {
			visit(text)
			return
		}
		visit(text[:comma])
		text = text[comma+1:]
	}
}

// EditHosts is text with each host name in it that edit knows another for
// replaced, found in the same places as the hosts of Services. key is the name
// of the setting that text is the value of, or empty; bare says whether a text
// that is nothing but a name may be a host.
func EditHosts(text, key string, bare bool, edit func(host string) (string, bool)) string {
	source := []byte(text)
	var out []byte
	done := 0
	hostsIn(source, key, bare, func(host []byte) {
		start := cap(source) - cap(host)
		if start < done {
			return
		}
		if to, ok := edit(string(host)); ok {
			out = append(append(out, source[done:start]...), to...)
			done = start + len(host)
		}
	})
	if done == 0 && out == nil {
		return text
	}
	return string(append(out, source[done:]...))
}

// standsAsHost says whether the token text[start:end] is where a host would
// be: before a port, behind an @, or as the value of a setting for hosts.
func standsAsHost(text []byte, start, end int) bool {
	if end+1 < len(text) && text[end] == ':' && text[end+1] >= '0' && text[end+1] <= '9' {
		digits := end + 1
		for digits < len(text) && text[digits] >= '0' && text[digits] <= '9' {
			digits++
		}
		n := digits - end - 1
		pathBefore := start > 0 && text[start-1] == '/' && (start < 2 || text[start-2] != '/')
		// image/name:1234 is a tag, name:12:30 is a time.
		return n >= 2 && n <= 5 && !pathBefore && (digits == len(text) || !wordChar[text[digits]] && text[digits] != ':')
	}
	if start > 0 && text[start-1] == '@' {
		return end < len(text) && text[end] == '/'
	}
	i := start
	for i > 0 && (text[i-1] == ' ' || text[i-1] == '"' || text[i-1] == '\'' || text[i-1] == '\t') {
		i--
	}
	if i == 0 || text[i-1] != '=' && text[i-1] != ':' {
		return false
	}
	i--
	for i > 0 && (text[i-1] == ' ' || text[i-1] == '"' || text[i-1] == '\'') {
		i--
	}
	word := i
	for word > 0 && (wordChar[text[word-1]]) {
		word--
	}
	return i-word <= 64 && namesHost(string(text[word:i]))
}

// emit passes on what has the shape of a host name that a cluster could have.
func emit(token []byte, found func([]byte)) {
	token = bytes.TrimSuffix(token, []byte{'.'})
	if len(token) == 0 || len(token) > 253 {
		return
	}
	labels, letters, svc, length := 1, false, false, 0
	for i, c := range token {
		switch {
		case c == '.':
			if length == 0 || token[i-1] == '-' {
				return
			}
			labels, length = labels+1, 0
			svc = svc || bytes.HasPrefix(token[i+1:], []byte("svc")) && (len(token) == i+4 || token[i+4] == '.')
			continue
		case c == '-':
			if length == 0 {
				return
			}
		case c >= 'a' && c <= 'z':
			letters = true
		case c < '0' || c > '9':
			return
		}
		if length++; length > 63 {
			return
		}
	}
	if length == 0 || !letters || labels > 3 && !svc || token[len(token)-1] == '-' || string(token) == "localhost" {
		return
	}
	found(token)
}

func isNameList(text []byte) bool {
	for _, c := range text {
		if !hostChar[c] && c != ',' && c != ' ' {
			return false
		}
	}
	// Words with blanks between them are a sentence, not hosts.
	return len(text) > 0 && !bytes.Contains(bytes.ReplaceAll(text, []byte(", "), []byte(",")), []byte{' '})
}

// hostWords and otherWords are the last words of names of settings.
var (
	hostWords = words("host hosts hostname hostaddr server servers addr addrs address addresses endpoint endpoints url urls uri " +
		"broker brokers upstream master primary replica source peer peers target proxy backend gateway")
	otherWords = words("name names user username users password pass passwd secret token key db database schema role mode env " +
		"environment type topic topics queue bucket namespace tag version path level id label app application component tier profile " +
		"profiles stage group prefix suffix realm tenant class kind format image command enabled title")
)

func words(s string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(s) {
		m[w] = true
	}
	return m
}

// settingMayBeHost says whether the value of a setting may be a host: unless
// its name says that it is something else (POSTGRES_DB, username).
func settingMayBeHost(key string) bool {
	last, all := lastWord(key)
	return !otherWords[last] || strings.Contains(all, "host") || strings.Contains(all, "server")
}

// namesHost says whether a setting's name says that its value is a host.
func namesHost(key string) bool {
	last, _ := lastWord(key)
	return hostWords[last]
}

// lastWord splits DB_HOST, dbHost, db.host and db-host.
func lastWord(key string) (last, all string) {
	start := 0
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '_' || c == '-' || c == '.' || c == '/':
			if i+1 < len(key) {
				start = i + 1
			}
		case c >= 'A' && c <= 'Z' && i > 0 && key[i-1] >= 'a' && key[i-1] <= 'z':
			start = i
		}
	}
	return strings.ToLower(key[start:]), strings.ToLower(key)
}

// serviceOf splits a host into the names that a Service of that host would
// have, most likely first. namespace is the one that the host is read in.
func serviceOf(host, namespace string) [][2]string {
	labels := strings.Split(host, ".")
	for i := 2; i < len(labels); i++ {
		if labels[i] == "svc" {
			return [][2]string{{labels[i-1], labels[i-2]}}
		}
	}
	// db-0.db is a pod of a StatefulSet behind its headless Service.
	pod := len(labels) > 1 && endsInOrdinal(labels[0])
	switch len(labels) {
	case 1:
		return [][2]string{{namespace, labels[0]}}
	case 2:
		out := [][2]string{{labels[1], labels[0]}}
		if pod {
			out = append(out, [2]string{namespace, labels[1]})
		}
		return out
	case 3:
		if pod {
			return [][2]string{{labels[2], labels[1]}}
		}
	}
	return nil
}

func endsInOrdinal(s string) bool {
	i := len(s)
	for i > 0 && s[i-1] >= '0' && s[i-1] <= '9' {
		i--
	}
	return i > 1 && i < len(s) && s[i-1] == '-'
}
