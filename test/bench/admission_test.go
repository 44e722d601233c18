package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/quantiles"
)

// withinRanges is what an admission policy has to ask, once for each Node, if the API server is to
// refuse addresses that are not of the node's ranges: a policy finds no object by the name of
// another, so that it must be given all Nodes as its parameters.
const withinRanges = `params.metadata.name != variables.node || !has(object.pods) || object.pods.all(p, p.ips.all(ip,
	has(params.spec.podCIDRs) && params.spec.podCIDRs.exists(c, cidr(c).containsIP(ip))))`

// BenchmarkAdmissionOfRanges is how long an agent's write of its PodAddresses takes: without an
// admission policy, with that of config/admission, and with one that asks withinRanges, too, by the
// Nodes that there are.
func BenchmarkAdmissionOfRanges(b *testing.B) {
	s := newAPIStage(b)
	ctx := context.Background()
	agent := s.agent(b, rest.ImpersonationConfig{
		UserName: "system:serviceaccount:podfence-system:podfence-agent", Groups: []string{"system:masters"},
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"node-0"}},
	})
	object := podAddressesOf("node-0")
	must(b, agent.Create(ctx, object))
	write := func(ip string) error {
		said := podAddress(0)
		said.IPs = []string{ip}
		object.Pods = append(object.Pods[:0:0], said)
		return agent.Update(ctx, object)
	}
	measure := func(name, ip string) {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for range b.N {
				began := time.Now()
				must(b, write(ip))
				took = append(took, time.Since(began))
			}
			quantiles.Report(b, "", time.Microsecond, took, 50, 100)
		})
	}
	measure("policy=none", "10.1.0.1")

	policy, binding := ownNodePolicy(b)
	must(b, errors.Join(s.Create(ctx, policy), s.Create(ctx, binding)))
	check.Eventually(b, time.Minute, "the policy to deny what is not so", func() error {
		return denied(agent.Create(ctx, podAddressesOf("another"), client.DryRunAll))
	})
	measure("policy=own-node", "10.1.0.1")

	policy.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "Node"}
	policy.Spec.Validations = append(policy.Spec.Validations, admissionv1.Validation{Expression: withinRanges})
	all, deny := &metav1.LabelSelector{}, admissionv1.DenyAction
	binding.Spec.ParamRef = &admissionv1.ParamRef{Selector: all, ParameterNotFoundAction: &deny}
	must(b, errors.Join(s.Update(ctx, policy), s.Update(ctx, binding)))
	others := 0
	for i, size := range []int{1, 100, 1_000, 5_000} {
		each(b, size-1-others, func(n int) error {
			n += others + 1
			return s.Create(ctx, realNode(fmt.Sprint("node-", n), fmt.Sprintf("10.%d.%d.0/24", 100+n>>8, n&0xff)))
		})
		others = size - 1
		// The node itself comes last, with another range: when the policy takes an address of that
		// one and no other, it knows the other Nodes, too.
		self, inside := realNode("node-0", fmt.Sprintf("10.%d.0.0/24", i)), fmt.Sprintf("10.%d.0.1", i)
		must(b, errors.Join(client.IgnoreNotFound(s.Delete(ctx, self.DeepCopy())), s.Create(ctx, self)))
		check.Eventually(b, time.Minute, "the policy to know the Nodes", func() error {
			if err := denied(write("10.99.0.1")); err != nil {
				return err
			}
			return write(inside)
		})
		measure(fmt.Sprintf("policy=ranges/nodes=%d", size), inside)
	}
}

// denied fails if a write was not denied by a policy.
func denied(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("it was not denied, but: %v", err)
}

// ownNodePolicy reads config/admission.
func ownNodePolicy(b *testing.B) (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {
	b.Helper()
	text, err := os.ReadFile("../../config/admission/podaddresses.yaml")
	must(b, err)
	first, second, _ := strings.Cut(string(text), "\n---\n")
	policy, binding := &admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyBinding{}
	must(b, errors.Join(yaml.UnmarshalStrict([]byte(first), policy), yaml.UnmarshalStrict([]byte(second), binding)))
	return policy, binding
}
