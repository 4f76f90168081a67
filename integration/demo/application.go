package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const (
	namespace = "shop"
	restored  = "shop-restored"
	policy    = "examples/policy.yaml"
	manifests = "examples/shop"
)

// fill makes rows that cannot be guessed. VACUUM and CHECKPOINT leave the
// server with nothing more to write by itself.
const fill = `
CREATE TABLE orders (id integer PRIMARY KEY, customer text NOT NULL, amount numeric(12, 2), placed timestamptz);
INSERT INTO orders SELECT n, md5(random()::text), (random() * 10000)::numeric(12, 2), now() - random() * interval '900 days' FROM generate_series(1, 5000) n;
VACUUM ANALYZE;
CHECKPOINT;
`

// application is what examples/shop describes.
type application struct{ place *place }

// install applies the manifests, waits until the pods are ready and fills the
// database.
func (a *application) install(ctx context.Context) error {
	p := a.place
	if err := p.apply(ctx); err != nil {
		return err
	}
	for _, workload := range []string{"statefulset/db", "deployment/web"} {
		if err := p.kubectl(ctx, p.source, "-n", namespace, "rollout", "status", workload, "--timeout=180s"); err != nil {
			return err
		}
	}
	_, err := p.output(ctx, fill, "kubectl", "--context", p.source, "-n", namespace, "exec", "-i", "db-0", "--",
		"psql", "-U", "postgres", "-d", "shop", "-q", "-v", "ON_ERROR_STOP=1")
	return err
}

// checksums are the SHA-256 of what must come back, always in one order.
type checksums []struct{ what, sum string }

// checksums reads the rows in order, and the file as it is.
func (a *application) checksums(ctx context.Context, where, ns string) (checksums, error) {
	rows, err := a.place.output(ctx, "", "kubectl", "--context", where, "-n", ns, "exec", "db-0", "--",
		"psql", "-U", "postgres", "-d", "shop", "-c", "COPY (SELECT * FROM orders ORDER BY id) TO STDOUT")
	if err != nil {
		return nil, err
	}
	file, err := a.place.output(ctx, "", "kubectl", "--context", where, "-n", ns, "exec", "deployment/web", "--", "sha256sum", "/session/keys")
	if err != nil {
		return nil, err
	}
	sum, _, _ := strings.Cut(file, " ")
	hash := sha256.Sum256([]byte(rows))
	return checksums{
		{fmt.Sprintf("%d rows of PostgreSQL", strings.Count(rows, "\n")), hex.EncodeToString(hash[:])},
		{"/session/keys in the emptyDir", sum},
	}, nil
}

func (c checksums) print() {
	for _, line := range c {
		fmt.Printf("sha256 %s  %s\n", line.sum, line.what)
	}
}
