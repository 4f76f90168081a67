package images

import (
	"context"
	_ "embed"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed postgres.sh
var postgresEntrypoint []byte

// Postgres is PostgreSQL 15 from Debian's packages, with bash, GNU tar and
// coreutils. See postgres.sh for its variables. The data are initialized when
// it starts on an empty PGDATA.
func (b *Builder) Postgres(ctx context.Context) (string, error) {
	return b.debian(ctx, debian{
		name:     "postgres",
		packages: []string{"postgresql-15", "postgresql-client-15", "bash", "coreutils", "findutils", "grep", "sed", "tar"},
		// Debian's wrappers around clusters, and just-in-time compilation.
		without:    []string{"postgresql-common", "postgresql-client-common", "libllvm14", "ssl-cert"},
		dropped:    []string{"usr/lib/postgresql/15/lib/bitcode", "usr/lib/postgresql/15/lib/llvmjit.so"},
		shell:      "bash",
		writable:   []string{"run/postgresql", "var/lib/postgresql"},
		entrypoint: postgresEntrypoint,
		config: v1.Config{
			// Ends sessions and stops; SIGTERM would wait for clients.
			StopSignal: "SIGINT",
			Env: []string{
				"PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PGDATA=/var/lib/postgresql/data", "PGUSER=postgres", "LC_ALL=C",
			},
		},
	})
}
