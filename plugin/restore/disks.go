package restore

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/kubectl-backup/kubectl-backup/plugin/kube"
	"github.com/kubectl-backup/kubectl-backup/plugin/object"
	"github.com/kubectl-backup/kubectl-backup/spec/v1alpha1"
)

// diskFields are those that say which disk a volume leads to, by the kind of its
// source. Of what is not here, as a share of files, many volumes may be made.
var diskFields = map[string][]string{
	"csi":                  {"driver", "volumeHandle"},
	"awsElasticBlockStore": {"volumeID"},
	"azureDisk":            {"diskURI"},
	"cinder":               {"volumeID"},
	"fc":                   {"targetWWNs", "lun", "wwids"},
	"gcePersistentDisk":    {"pdName"},
	"iscsi":                {"targetPortal", "iqn", "lun"},
	"local":                {"path"},
	"portworxVolume":       {"volumeID"},
	"rbd":                  {"monitors", "pool", "image"},
	"vsphereVolume":        {"volumePath"},
}

// diskOf is the same for two PersistentVolumes that lead to one disk, and empty
// where that is not known.
func diskOf(spec map[string]any) string {
	for kind, fields := range diskFields {
		source := section(spec, kind)
		if source == nil {
			continue
		}
		at := []any{kind}
		for _, f := range fields {
			at = append(at, source[f])
		}
		if kind == "local" { // a path is one on each node
			at = append(at, section(spec, "nodeAffinity"))
		}
		text, err := json.Marshal(at)
		if err != nil {
			return ""
		}
		return string(text)
	}
	return ""
}

// leaveTakenDisks leaves out volumes whose disk the target knows by another
// name: with two volumes two applications would write to one disk. Their claims
// get new volumes.
func (p *Plan) leaveTakenDisks(ctx context.Context) error {
	disks := map[string][]*item{}
	for _, i := range p.items {
		if i.disk != "" && i.line.Outcome == v1alpha1.OutcomeCreate {
			disks[i.disk] = append(disks[i.disk], i)
		}
	}
	if len(disks) == 0 {
		return nil
	}
	k, err := p.request.Target.FindKind(ctx, "", "v1", "PersistentVolume")
	if err != nil {
		return err
	}
	_, err = p.request.Target.List(ctx, k, kube.ListOptions{}, func(o *object.Object) error {
		spec := sectionOf(o, "spec")
		for _, i := range disks[diskOf(spec)] {
			p.leaveTakenDisk(i, o.Ref.Name, section(spec, "claimRef"))
		}
		return nil
	})
	if _, _, denied := kube.Denied(err); denied {
		return nil // who may not see volumes makes none either
	}
	if err != nil {
		return fmt.Errorf("look for volumes of the same disks: %w", err)
	}
	return nil
}

// leaveTakenDisk leaves out one volume, for the sake of another one of the same
// disk, which may belong to a claim.
func (p *Plan) leaveTakenDisk(i *item, other string, owner map[string]any) {
	i.settle(v1alpha1.OutcomeSkipped, "its disk is here already, as PersistentVolume %s", other)
	if owner != nil {
		i.line.Reason += fmt.Sprintf(", which belongs to claim %v/%v", owner["namespace"], owner["name"])
	}
	claim := p.bySaved[i.claimRef.Key()]
	if claim == nil || claim.newVolume || claim.line.Outcome != v1alpha1.OutcomeCreate {
		return
	}
	claim.newVolume = true
	claim.warn("the disk of its volume %s is here already, as PersistentVolume %s, and it gets a new volume", claim.volume, other)
}
