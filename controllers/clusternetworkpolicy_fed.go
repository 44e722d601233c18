package controllers

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// fedPolicy is what is kept of a policy that has been fed. What it says is in the model: to keep its
// rules here as well would take as much memory again.
type fedPolicy struct {
	// object is the policy without its specification.
	object *clusterv1beta1.ClusterNetworkPolicy
	// spec is the specification that was fed, as JSON and packed, which is a tenth of it. It is the same for
	// a list that is empty and for one that is missing, which say the same in a ClusterNetworkPolicy.
	spec []byte
}

// bare is the policy without its specification.
func (f fedPolicy) bare() *clusterv1beta1.ClusterNetworkPolicy { return f.object }

// is reports whether what was fed is the policy as it is listed. The resourceVersion does not say so
// alone: it is the same if the policy was read without fields that the kind's definition has by now.
func (f fedPolicy) is(listed *clusterv1beta1.ClusterNetworkPolicy, p *packer) bool {
	if f.object.UID != listed.UID || f.object.ResourceVersion != listed.ResourceVersion {
		return false
	}
	now := stripClusterPolicy(listed)
	if f.object.Annotations[notKept] != "" {
		now = emptiedCluster(now)
	}
	return bytes.Equal(f.spec, p.pack(&now.Spec))
}

// whole is the policy with its specification.
func (f fedPolicy) whole() (*clusterv1beta1.ClusterNetworkPolicy, error) {
	whole := &clusterv1beta1.ClusterNetworkPolicy{TypeMeta: f.object.TypeMeta, ObjectMeta: f.object.ObjectMeta}
	if err := json.NewDecoder(flate.NewReader(bytes.NewReader(f.spec))).Decode(&whole.Spec); err != nil {
		return nil, fmt.Errorf("unpacking ClusterNetworkPolicy %s: %w", f.object.Name, err)
	}
	return whole, nil
}

// packer packs specifications. The same specification is packed into the same bytes.
type packer struct {
	packed bytes.Buffer
	writer *flate.Writer
}

// newPacker returns a packer, which takes a megabyte: it is for several policies, and then let go.
func newPacker() *packer {
	p := &packer{}
	p.writer, _ = flate.NewWriter(&p.packed, flate.BestSpeed) // fails for levels that there are not
	return p
}

// keep is what is kept of a policy that has been fed.
func (p *packer) keep(cnp *clusterv1beta1.ClusterNetworkPolicy) fedPolicy {
	return fedPolicy{
		object: &clusterv1beta1.ClusterNetworkPolicy{TypeMeta: cnp.TypeMeta, ObjectMeta: cnp.ObjectMeta},
		spec:   p.pack(&cnp.Spec),
	}
}

// pack packs a specification. What was read as JSON can be written as JSON, and a buffer takes all that is
// written.
func (p *packer) pack(spec *clusterv1beta1.ClusterNetworkPolicySpec) []byte {
	p.packed.Reset()
	p.writer.Reset(&p.packed)
	_ = json.NewEncoder(p.writer).Encode(spec)
	_ = p.writer.Close()
	return bytes.Clone(p.packed.Bytes())
}
