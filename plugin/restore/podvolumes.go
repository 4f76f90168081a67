package restore

import (
	"context"

	"github.com/kubectl-backup/kubectl-backup/plugin/rewrite"
)

func (p *Plan) held(i *item) []*volumeItem { return nil }
func (p *Plan) restoreHeld(ctx context.Context, i *item, d *rewrite.Draft, before original, held []*volumeItem) error {
	return nil
}
