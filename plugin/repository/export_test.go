package repository

import "github.com/kopia/kopia/repo"

// Half of the time of these tests would be spent in making guessing slow.
func init() { keyDerivation = "pbkdf2-sha256-600000" }

// Kopia is the repository as kopia sees it.
func Kopia(r *Repository) repo.DirectRepository { return r.rep }
