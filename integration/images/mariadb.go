package images

import (
	"context"
	_ "embed"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed mariadb.sh
var mariadbEntrypoint []byte

// MariaDB is MariaDB 10.11 from Debian's packages, with dash and coreutils. See
// mariadb.sh for its variables. The data are initialized when it starts on an
// empty /var/lib/mysql.
func (b *Builder) MariaDB(ctx context.Context) (string, error) {
	return b.debian(ctx, debian{
		name: "mariadb",
		// mariadb-client has the program that checks tables.
		packages: []string{"mariadb-server-core", "mariadb-client-core", "mariadb-client", "dash", "coreutils", "grep", "hostname", "sed", "tar"},
		without:  []string{"mariadb-common", "mysql-common", "libconfig-inifiles-perl", "libdbi-perl", "libdbd-mariadb-perl"},
		// Programs of five megabytes each that nothing here calls.
		dropped: []string{
			"usr/bin/mariadb-binlog", "usr/bin/mariadb-upgrade", "usr/bin/mariadb-dump", "usr/bin/mariadb-slap", "usr/bin/mariadb-show", "usr/bin/mariadb-import",
			"usr/bin/mariadb-conv", "usr/bin/mariadb-plugin", "usr/bin/mariadb-tzinfo-to-sql", "usr/bin/mariadb-waitpid", "usr/bin/perror", "usr/bin/innochecksum",
			"usr/bin/resolveip", "usr/bin/resolve_stack_dump", "usr/bin/replace", "usr/lib/x86_64-linux-gnu/gconv",
		},
		shell:      "dash",
		writable:   []string{"run/mysqld", "var/lib/mysql"},
		entrypoint: mariadbEntrypoint,
		config:     v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}},
	})
}
