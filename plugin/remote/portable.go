package remote

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fspath"
	"github.com/rclone/rclone/lib/env"

	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// Portable is a remote that another process, on another machine, can open: it
// refers to nothing of this one. All of it is secret.
type Portable struct {
	// Spec is what Open takes there, without more configuration.
	Spec v1alpha1.BackupRemoteSpec
	// Files have to lie in the folder that was given, under these names.
	Files map[string][]byte
	// Environment has to be set there.
	Environment map[string]string
	// Loopback is the address of this machine that the remote is at, or empty.
	// Whether another machine has the same remote there, only trying tells.
	Loopback string
}

// largestFile bounds a file that an option names: keys and credentials.
const largestFile = 128 << 10

// fileOptions are the options of backends that name a file, whose content the
// backend needs.
var fileOptions = map[string][]string{
	"sftp":                 {"key_file", "pubkey_file", "known_hosts_file"},
	"drive":                {"service_account_file"},
	"google cloud storage": {"service_account_file"},
	"gcs":                  {"service_account_file"},
	"azureblob":            {"client_certificate_path", "service_principal_file"},
	"azurefiles":           {"client_certificate_path", "service_principal_file"},
	"s3":                   {"shared_credentials_file"},
	"box":                  {"box_config_file"},
	"oracleobjectstorage":  {"sse_customer_key_file"},
}

// environment are the variables, and those that name a file, that backends take
// credentials from by themselves, most of them only with env_auth. Besides, a
// backend takes each of its options from RCLONE_<TYPE>_<OPTION>.
var environment = map[string]struct{ values, files []string }{
	"s3": {
		values: []string{
			"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
			"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
		},
		files: []string{"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE"},
	},
	"azureblob":            azureEnvironment,
	"azurefiles":           azureEnvironment,
	"google cloud storage": {files: []string{"GOOGLE_APPLICATION_CREDENTIALS"}},
	"gcs":                  {files: []string{"GOOGLE_APPLICATION_CREDENTIALS"}},
	"drive":                {files: []string{"GOOGLE_APPLICATION_CREDENTIALS"}},
	"swift": {values: []string{
		"ST_USER", "ST_KEY", "ST_AUTH", "OS_USERNAME", "OS_USER_ID", "OS_PASSWORD", "OS_AUTH_URL", "OS_AUTH_TOKEN", "OS_STORAGE_URL",
		"OS_TENANT_NAME", "OS_TENANT_ID", "OS_PROJECT_NAME", "OS_PROJECT_ID", "OS_PROJECT_DOMAIN_NAME", "OS_PROJECT_DOMAIN_ID",
		"OS_USER_DOMAIN_NAME", "OS_USER_DOMAIN_ID", "OS_DOMAIN_NAME", "OS_REGION_NAME",
		"OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_NAME", "OS_APPLICATION_CREDENTIAL_SECRET",
	}},
	"qingstor": {values: []string{"QY_ACCESS_KEY_ID", "QY_SECRET_ACCESS_KEY"}},
}

var azureEnvironment = struct{ values, files []string }{
	values: []string{
		"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD",
		"AZURE_USERNAME", "AZURE_PASSWORD", "AZURE_AUTHORITY_HOST",
	},
	files: []string{"AZURE_CLIENT_CERTIFICATE_PATH"},
}

// usualFiles are where programs look for such a file when its variable is not
// set, below the home folder.
var usualFiles = map[string]string{
	"AWS_SHARED_CREDENTIALS_FILE":    ".aws/credentials",
	"AWS_CONFIG_FILE":                ".aws/config",
	"GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json",
}

// MakePortable gathers what another machine needs to open a remote, or says why
// none can. conf is as for Open; folder is where the files will be there.
func MakePortable(spec v1alpha1.BackupRemoteSpec, conf []byte, folder string) (Portable, error) {
	quiet()
	sections, err := sectionsOf(spec.Config, conf)
	if err != nil {
		return Portable{}, err
	}
	delete(sections, localSection)
	g := &gatherer{
		sections: sections, folder: folder,
		out: Portable{Files: map[string][]byte{}, Environment: map[string]string{}},
	}
	g.out.Spec = spec
	g.out.Spec.ConfigSecretRef, g.out.Spec.PasswordFrom = nil, nil
	g.out.Spec.Config = map[string]map[string]string{}
	if err := g.refer(spec.Path); err != nil {
		return Portable{}, err
	}
	return g.out, nil
}

// gatherer follows references from the remote to those it wraps.
type gatherer struct {
	sections map[string]map[string]string
	folder   string
	out      Portable
}

// refer takes up what a path in rclone's notation names.
func (g *gatherer) refer(to string) error {
	p, err := fspath.Parse(to)
	if err != nil {
		return fmt.Errorf("%q is not a path in rclone's notation", v1alpha1.RedactPath(to))
	}
	if p.Name == "" {
		return fmt.Errorf("%s is a folder of the machine that the plugin runs on", v1alpha1.RedactPath(to))
	}
	if backend, inline := strings.CutPrefix(p.Name, ":"); inline {
		options := maps.Clone(map[string]string(p.Config))
		return g.fits(p.Name, backend, options, true)
	}
	options, known := g.sections[p.Name]
	if !known {
		return fmt.Errorf("remote %q is not configured", p.Name)
	}
	if len(p.Config) > 0 {
		merged := maps.Clone(options)
		maps.Copy(merged, p.Config)
		if err := g.fits(p.Name, options["type"], merged, true); err != nil {
			return err
		}
	}
	if g.out.Spec.Config[p.Name] != nil {
		return nil
	}
	own := maps.Clone(options)
	g.out.Spec.Config[p.Name] = own
	return g.fits(p.Name, options["type"], own, false)
}

// fits checks one remote, takes its files and variables along, and follows it
// to those that it wraps. Files that only a path names cannot be renamed.
func (g *gatherer) fits(name, backend string, options map[string]string, fixed bool) error {
	if backend == "google cloud storage" || backend == "gcs" {
		backend = "google cloud storage"
	}
	if why := bound(backend, options); why != "" {
		return fmt.Errorf("remote %q %s", strings.TrimPrefix(name, ":"), why)
	}
	for _, option := range fileOptions[backend] {
		file := options[option]
		if file == "" || option == "known_hosts_file" && file == "none" {
			continue
		}
		if fixed {
			return fmt.Errorf("remote %q names a file in its path (%s): put it under spec.config", strings.TrimPrefix(name, ":"), option)
		}
		mounted, err := g.take(env.ShellExpand(file))
		if err != nil {
			return fmt.Errorf("remote %q: %s: %w", name, option, err)
		}
		options[option] = mounted
	}
	if err := g.variables(backend, options); err != nil {
		return fmt.Errorf("remote %q: %w", name, err)
	}
	g.address(options)
	for _, wrapped := range wraps(backend, options) {
		if err := g.refer(wrapped); err != nil {
			return err
		}
	}
	return nil
}

// bound says what binds a remote to this machine.
func bound(backend string, options map[string]string) string {
	on := func(option string) bool { b, _ := strconv.ParseBool(options[option]); return b }
	switch {
	case backend == "local":
		return "is a folder of the machine that the plugin runs on"
	case backend == "memory":
		return "is in the memory of the plugin"
	case backend == "sftp" && options["ssh"] != "":
		return "is reached by a program of the machine that the plugin runs on (option ssh)"
	case backend == "sftp" && (on("key_use_agent") || options["pass"] == "" && options["key_file"] == "" && options["key_pem"] == ""):
		return "needs the ssh agent of the machine that the plugin runs on (hint: set key_file, key_pem or pass)"
	case options["bearer_token_command"] != "":
		return "gets its token from a program of the machine that the plugin runs on (option bearer_token_command)"
	case backend == "smb" && (on("use_kerberos") || options["kerberos_ccache"] != ""), backend == "hdfs" && options["service_principal_name"] != "":
		return "needs the Kerberos ticket of the machine that the plugin runs on"
	case backend == "oracleobjectstorage" && options["provider"] == "user_principal_auth":
		return "needs the Oracle configuration of the machine that the plugin runs on"
	case backend == "box" && options["token"] != "":
		return "has a token that only one process at a time can renew"
	case on("use_msi") || on("use_az"):
		return "takes its identity from the machine that the plugin runs on"
	}
	return ""
}

// take puts a file into the luggage and returns where it will be.
func (g *gatherer) take(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > largestFile {
		return "", fmt.Errorf("%s is not a file of at most %d KiB", file, largestFile>>10)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for name, have := range g.out.Files {
		if bytes.Equal(have, content) {
			return path.Join(g.folder, name), nil
		}
	}
	name := fmt.Sprintf("file-%d", len(g.out.Files))
	g.out.Files[name] = content
	return path.Join(g.folder, name), nil
}

// variables takes along what the backend would find in the environment here.
func (g *gatherer) variables(backend string, options map[string]string) error {
	prefix := "RCLONE_" + strings.ToUpper(strings.ReplaceAll(backend, " ", "_")) + "_"
	if info, err := fs.Find(backend); err == nil && info.Prefix != "" {
		prefix = "RCLONE_" + strings.ToUpper(info.Prefix) + "_"
	}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		option, ours := strings.CutPrefix(name, prefix)
		if !ours {
			continue
		}
		if slices.Contains(fileOptions[backend], strings.ToLower(option)) {
			mounted, err := g.take(env.ShellExpand(value))
			if err != nil {
				return fmt.Errorf("variable %s: %w", name, err)
			}
			value = mounted
		}
		g.out.Environment[name] = value
	}
	known := environment[backend]
	if envAuth, _ := strconv.ParseBool(options["env_auth"]); !envAuth && backend != "google cloud storage" && backend != "drive" {
		return nil
	}
	for _, name := range known.values {
		if value := os.Getenv(name); value != "" {
			g.out.Environment[name] = value
		}
	}
	home, _ := os.UserHomeDir()
	for _, name := range known.files {
		file := os.Getenv(name)
		if file == "" {
			if usual := usualFiles[name]; usual == "" || home == "" {
				continue
			} else if file = filepath.Join(home, usual); !exists(file) {
				continue
			}
		}
		mounted, err := g.take(file)
		if err != nil {
			return fmt.Errorf("variable %s: %w", name, err)
		}
		g.out.Environment[name] = mounted
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// address notes where a remote is on this machine.
func (g *gatherer) address(options map[string]string) {
	for _, option := range []string{"endpoint", "host", "url", "namenode", "auth", "storage_url"} {
		host := options[option]
		if u, err := url.Parse(host); err == nil && u.Host != "" {
			host = u.Host
		}
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			g.out.Loopback = host
		}
	}
}

// wraps lists the paths of the remotes that a remote is made of.
func wraps(backend string, options map[string]string) []string {
	var out []string
	if remote := options["remote"]; remote != "" {
		out = append(out, remote)
	}
	if list := options["upstreams"]; list != "" {
		var upstreams fs.SpaceSepList
		if upstreams.Set(list) != nil {
			return []string{list} // refused where it is parsed
		}
		for _, upstream := range upstreams {
			if backend == "combine" {
				_, upstream, _ = strings.Cut(upstream, "=")
			}
			out = append(out, upstream)
		}
	}
	return out
}
