package images

import (
	"context"
	_ "embed"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

//go:embed redis.sh
var redisEntrypoint []byte

// Redis is Redis 7.0 from Debian's packages, with dash and coreutils, and its
// programs that check files. See redis.sh for its variables. Data are in /data.
func (b *Builder) Redis(ctx context.Context) (string, error) {
	return b.debian(ctx, debian{
		name:       "redis",
		packages:   []string{"redis-server", "redis-tools", "dash", "coreutils", "tar"},
		shell:      "dash",
		writable:   []string{"data"},
		entrypoint: redisEntrypoint,
		config:     v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, WorkingDir: "/data"},
	})
}
