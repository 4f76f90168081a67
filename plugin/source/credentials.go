package source

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const hidden = "***"

// userPart is what may hold credentials in something that is not quite a URL.
// It takes too much rather than too little: up to the last @.
var userPart = regexp.MustCompile(`://.*@`)

// splitURL parses a URL without ever repeating it in an error, and returns the
// strings that must not be printed.
func splitURL(raw string) (*url.URL, []string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil, nil, v1alpha1.Usagef("%s is not a URL; characters like @ : / in a password are written as %%40 %%3A %%2F", redactURL(raw))
	}
	return u, secretsOf(u), nil
}

// secretsOf lists the credentials of a URL in every spelling in which a
// library may repeat them.
func secretsOf(u *url.URL) []string {
	var secrets []string
	add := func(s string) {
		// A shorter one would blot out parts of ordinary words.
		if len(s) >= 3 {
			secrets = append(secrets, s, url.QueryEscape(s), url.PathEscape(s))
		}
	}
	if u.User != nil {
		password, set := u.User.Password()
		add(password)
		if !set && u.Scheme != "ssh" {
			add(u.User.Username()) // a token alone
		}
	}
	for key, values := range u.Query() {
		if key == "ref" {
			continue
		}
		for _, v := range values {
			add(v)
		}
	}
	return secrets
}

// redactURL is the form of a URL that may be stored and printed: no password
// and no token. The user name of SSH stays, since it is a part of the address.
func redactURL(raw string) string {
	if rest, ok := strings.CutPrefix(raw, gitPrefix); ok {
		return gitPrefix + redactURL(rest)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" && strings.Contains(raw, "@") {
		return userPart.ReplaceAllString(cutQuery(raw), "://")
	}
	if u.User != nil {
		if u.Scheme == "ssh" && u.User.Username() != "" {
			u.User = url.User(u.User.Username())
		} else {
			u.User = nil
		}
	}
	u.Fragment, u.RawFragment = "", ""
	query := u.Query()
	for key, values := range query {
		for i := range values {
			if key != "ref" {
				values[i] = hidden
			}
		}
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), url.QueryEscape(hidden), hidden)
	return u.String()
}

func cutQuery(raw string) string {
	before, _, _ := strings.Cut(raw, "?")
	return before
}

// scrub takes credentials out of an error. An error that holds none keeps its
// chain.
func scrub(err error, secrets []string) error {
	message := err.Error()
	clean := message
	for _, s := range secrets {
		clean = strings.ReplaceAll(clean, s, hidden)
	}
	if clean == message {
		return err
	}
	return errors.New(clean)
}
