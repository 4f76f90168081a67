package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

const (
	blocksGroup = "cbt.storage.k8s.io"
	blocksKind  = "SnapshotMetadataService"
)

// BlockService is where a driver lists which blocks of its snapshots hold data,
// as pods reach it. Its object is called as the driver.
type BlockService struct {
	// Address is host and port, CA the authorities for its certificate, and
	// Audience who a token for it has to be for.
	Address, Audience string
	CA                []byte
}

// blocks is what was found out about the service of one driver.
type blocks struct {
	service *BlockService
	reason  string
}

// Blocks finds the service of a driver, or the reason why its snapshots are
// read as a whole. Each driver is asked for once.
func (s *Support) Blocks(ctx context.Context, c *kube.Cluster, driver string) (*BlockService, string, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if found, asked := s.blocks[driver]; asked {
		return found.service, found.reason, nil
	}
	found, err := findBlocks(ctx, c, driver)
	if err != nil {
		return nil, "", err
	}
	if s.blocks == nil {
		s.blocks = map[string]blocks{}
	}
	s.blocks[driver] = found
	return found.service, found.reason, nil
}

func findBlocks(ctx context.Context, c *kube.Cluster, driver string) (blocks, error) {
	k, err := c.FindKind(ctx, blocksGroup, "", blocksKind)
	if errors.As(err, new(*kube.NotServedError)) {
		return blocks{reason: "the cluster knows no " + blocksKind}, nil
	}
	if err != nil {
		return blocks{}, err
	}
	o, err := c.Get(ctx, k, "", driver)
	switch {
	case apierrors.IsNotFound(err):
		return blocks{reason: fmt.Sprintf("driver %s has no %s", driver, blocksKind)}, nil
	case ctx.Err() != nil:
		return blocks{}, context.Cause(ctx)
	case err != nil: // no right, for one: what can be done without is no reason to fail
		return blocks{reason: fmt.Sprintf("%s %s: %s", blocksKind, driver, err)}, nil
	}
	var x struct {
		Spec struct {
			Address  string `json:"address"`
			Audience string `json:"audience"`
			CA       []byte `json:"caCert"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Raw, &x); err != nil {
		return blocks{reason: fmt.Sprintf("read %s: %s", o.Ref, err)}, nil
	}
	return blocks{service: &BlockService{Address: x.Spec.Address, Audience: x.Spec.Audience, CA: x.Spec.CA}}, nil
}

// Snapshot is the name of the VolumeSnapshot that Claim made a volume's claim
// from.
func (c *Cut) Snapshot(claim v1alpha1.Ref) string {
	if p := c.part(claim); p != nil {
		return p.snapshot
	}
	return ""
}
