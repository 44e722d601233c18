package churn

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// How many come and go at most. With more policies hardly a packet would pass;
// the 97th pod's addresses are the stranger's.
const (
	Pods       = 40
	namespaces = 3
	policies   = 12
)

// Cluster is what has been written to the API server: every object is as its
// last answer had it. It is for one goroutine at a time.
type Cluster struct {
	// Rand is what the changes are drawn from.
	Rand *rand.Rand
	// KeepNode has random.Node stay as it is: without it, its agent is not ready.
	KeepNode bool

	ctx context.Context
	api *kubernetes.Clientset

	nodes      map[string]*corev1.Node
	namespaces map[string]*corev1.Namespace
	// pods and policies are those that come and go, by number.
	pods     map[int]*corev1.Pod
	policies map[int]*networkingv1.NetworkPolicy
	// fixedPods and fixedPolicies stay as they are.
	fixedPods     []*corev1.Pod
	fixedPolicies []*networkingv1.NetworkPolicy

	// Writes are those that the API server took, Rejected those that it found
	// invalid.
	Writes, Rejected int
}

// NewCluster writes random.Nodes and the namespaces. More nodes come and go.
func NewCluster(ctx context.Context, api *kubernetes.Clientset, r *rand.Rand) (*Cluster, error) {
	c := &Cluster{
		Rand: r, ctx: ctx, api: api, nodes: map[string]*corev1.Node{},
		namespaces: map[string]*corev1.Namespace{}, pods: map[int]*corev1.Pod{}, policies: map[int]*networkingv1.NetworkPolicy{},
	}
	for _, node := range random.Nodes() {
		if err := c.writeNode(node); err != nil {
			return nil, err
		}
	}
	for i := range namespaces {
		if err := c.createNamespace(random.Namespace(r, i)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// createNamespace writes a namespace.
func (c *Cluster) createNamespace(ns *corev1.Namespace) error {
	written, err := c.api.CoreV1().Namespaces().Create(c.ctx, ns, metav1.CreateOptions{})
	if err == nil {
		c.namespaces[ns.Name] = written
	}
	return err
}

// Fix writes objects that stay as they are: a namespace, its pods with their status,
// and its policies.
func (c *Cluster) Fix(ns *corev1.Namespace, pods []*corev1.Pod, policies []*networkingv1.NetworkPolicy) error {
	if err := c.createNamespace(ns); err != nil {
		return err
	}
	for _, want := range pods {
		pod, err := c.createPod(want)
		if err != nil {
			return err
		}
		if pod, err = c.updateStatus(pod, want.Status); err != nil {
			return err
		}
		c.fixedPods = append(c.fixedPods, pod)
	}
	for _, want := range policies {
		np, err := c.api.NetworkingV1().NetworkPolicies(want.Namespace).Create(c.ctx, want, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		c.fixedPolicies = append(c.fixedPolicies, np)
	}
	return nil
}

// Snapshot is the cluster as it is now, in the eyes of random.Node's agent, which takes an
// address in another node's range for that of whichever pod shows it.
func (c *Cluster) Snapshot() policy.Snapshot {
	s := policy.Snapshot{Node: random.Node, LastPodCIDRs: random.PodRanges, Pods: slices.Clone(c.fixedPods), Policies: slices.Clone(c.fixedPolicies)}
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		s.Nodes = append(s.Nodes, c.nodes[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.namespaces)) {
		s.Namespaces = append(s.Namespaces, c.namespaces[name])
	}
	for _, i := range slices.Sorted(maps.Keys(c.pods)) {
		s.Pods = append(s.Pods, c.pods[i])
	}
	for _, i := range slices.Sorted(maps.Keys(c.policies)) {
		s.Policies = append(s.Policies, c.policies[i])
	}
	return s
}

// Change makes one random change.
func (c *Cluster) Change() error {
	i := c.Rand.Intn(Pods)
	pod, n := c.pods[i], c.Rand.Intn(16)
	switch {
	case n < 2 || n < 7 && pod == nil:
		return c.replacePod(i, func() *corev1.Pod { return random.Pod(c.Rand, i) })
	case n < 3:
		return c.replacePod(i, func() *corev1.Pod { return c.oddPod(i, "") })
	case n < 5:
		return c.relabelPod(i)
	case n < 6:
		return c.count(c.writeStatus(i, c.oddStatus(i, pod)))
	case n < 7:
		return c.deletePod(i, grace)
	case n < 8 && pod != nil:
		return c.deletePod(i, 0)
	case n < 9:
		return c.relabelNamespace()
	case n < 10:
		return c.changeAround()
	case n < 14:
		return c.writePolicy(c.Rand.Intn(policies))
	}
	return c.deletePolicy(c.Rand.Intn(policies))
}

// oddPod draws the ith pod, if on is not empty for that node. One of the lab's node shows no
// address of another node or of its ranges: in the lab those are all behind one link, which the
// agent would take for that pod's. Nor does it show the node's own, if it is not on the host's
// network: no kubelet does that, and whose the address then is, Judge and the kernel say differently.
func (c *Cluster) oddPod(i int, on string) *corev1.Pod {
	for {
		pod := random.OddPod(c.Rand, i, Pods)
		pod.Spec.NodeName = cmp.Or(on, pod.Spec.NodeName)
		if pod.Spec.NodeName != random.Node || !random.ShowsNode(pod) && !slices.ContainsFunc(random.PodAddrsOf(pod), ofOtherNodes) {
			return pod
		}
	}
}

// oddStatus draws another status of the ith pod. A kubelet shows its node's addresses for pods
// of the host's network, and for no others.
func (c *Cluster) oddStatus(i int, pod *corev1.Pod) corev1.PodStatus {
	for {
		if odd := c.oddPod(i, pod.Spec.NodeName); odd.Spec.HostNetwork == pod.Spec.HostNetwork {
			return odd.Status
		}
	}
}

// ofOtherNodes reports whether an address is another node's, or one that its pods may have.
func ofOtherNodes(addr netip.Addr) bool {
	for _, own := range random.Remote() {
		if slices.Contains(own, addr) {
			return true
		}
	}
	return random.InOtherRanges(addr)
}

// Vanish deletes up to n pods and n policies, for good.
func (c *Cluster) Vanish(n int) error {
	for _, i := range slices.Sorted(maps.Keys(c.pods))[:min(n, len(c.pods))] {
		if err := c.deletePod(i, 0); err != nil {
			return err
		}
	}
	for _, i := range slices.Sorted(maps.Keys(c.policies))[:min(n, len(c.policies))] {
		if err := c.deletePolicy(i); err != nil {
			return err
		}
	}
	return nil
}

// count counts a write; one that the API server finds invalid is no error.
func (c *Cluster) count(err error) error {
	if apierrors.IsInvalid(err) {
		c.Rejected++
		return nil
	}
	if err == nil {
		c.Writes++
	}
	return err
}

// draws is how many objects are made at most until the API server takes one.
const draws = 20

// untilAccepted calls write, which draws an object anew, until one is taken.
func (c *Cluster) untilAccepted(write func() error) error {
	var err error
	for range draws {
		if err = write(); !apierrors.IsInvalid(err) {
			return c.count(err)
		}
		c.Rejected++
	}
	return fmt.Errorf("%d rejected in a row, the last: %w", draws, err)
}

// replacePod makes a pod in place of the ith, if there is one: node and
// containers of a pod cannot change.
func (c *Cluster) replacePod(i int, draw func() *corev1.Pod) error {
	if err := c.deletePod(i, 0); err != nil {
		return err
	}
	var want *corev1.Pod
	err := c.untilAccepted(func() error {
		want = draw()
		created, err := c.createPod(want)
		if err == nil {
			c.pods[i] = created
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := c.count(c.writeStatus(i, want.Status)); err != nil {
		return err
	}
	if want.DeletionTimestamp != nil {
		return c.deletePod(i, grace)
	}
	return nil
}

// createPod creates a pod, without its status but with what the API server asks
// of a spec.
func (c *Cluster) createPod(want *corev1.Pod) (*corev1.Pod, error) {
	pod := want.DeepCopy()
	pod.UID, pod.DeletionTimestamp = "", nil
	pod.Spec.EphemeralContainers = nil // come by another way, without ports
	no := false
	pod.Spec.AutomountServiceAccountToken = &no
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].Image = "image"
		}
	}
	if err := c.ensureNamespace(pod.Namespace); err != nil {
		return nil, err
	}
	return c.api.CoreV1().Pods(pod.Namespace).Create(c.ctx, pod, metav1.CreateOptions{})
}

// writeStatus gives the ith pod a status. If the API server rejects that, the
// pod is as before.
func (c *Cluster) writeStatus(i int, status corev1.PodStatus) error {
	pod, err := c.updateStatus(c.pods[i], status)
	if err == nil {
		c.pods[i] = pod
	}
	return err
}

// updateStatus gives a pod what policy sees of a status, and returns the pod.
func (c *Cluster) updateStatus(pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	pod.Status.Phase, pod.Status.StartTime = status.Phase, status.StartTime
	pod.Status.PodIP, pod.Status.PodIPs = status.PodIP, status.PodIPs
	if err := c.ensureNamespace(pod.Namespace); err != nil {
		return nil, err
	}
	return c.api.CoreV1().Pods(pod.Namespace).UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
}

// relabelPod gives the ith pod other labels.
func (c *Cluster) relabelPod(i int) error {
	pod := c.pods[i].DeepCopy()
	pod.Labels = random.Labels(c.Rand)
	if err := c.ensureNamespace(pod.Namespace); err != nil {
		return err
	}
	written, err := c.api.CoreV1().Pods(pod.Namespace).Update(c.ctx, pod, metav1.UpdateOptions{})
	if err == nil {
		c.pods[i] = written
	}
	return c.count(err)
}

// grace is what pods get to terminate. No kubelet says that they have: a pod
// that runs goes on terminating until it is replaced, or deleted with a grace of 0.
const grace = 30

// deletePod deletes the ith pod, if there is one, and keeps what is left of it.
func (c *Cluster) deletePod(i int, grace int64) error {
	pod := c.pods[i]
	if pod == nil {
		return nil
	}
	api := c.api.CoreV1().Pods(pod.Namespace)
	if err := c.count(api.Delete(c.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace})); err != nil {
		return err
	}
	left, err := api.Get(c.ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		delete(c.pods, i)
		return nil
	case err == nil:
		c.pods[i] = left
	}
	return err
}

// relabelNamespace gives some namespace other labels.
func (c *Cluster) relabelNamespace() error {
	fresh := random.Namespace(c.Rand, c.Rand.Intn(namespaces))
	if c.namespaces[fresh.Name] == nil {
		return c.count(c.createNamespace(fresh))
	}
	ns := c.namespaces[fresh.Name].DeepCopy()
	ns.Labels = fresh.Labels
	written, err := c.api.CoreV1().Namespaces().Update(c.ctx, ns, metav1.UpdateOptions{})
	if err == nil {
		c.namespaces[ns.Name] = written
	}
	return c.count(err)
}

// writePolicy creates the ith policy, or gives it another spec.
func (c *Cluster) writePolicy(i int) error {
	return c.untilAccepted(func() error {
		fresh := random.Policy(c.Rand, i)
		if err := c.ensureNamespace(fresh.Namespace); err != nil {
			return err
		}
		api := c.api.NetworkingV1().NetworkPolicies(fresh.Namespace)
		var written *networkingv1.NetworkPolicy
		var err error
		if have := c.policies[i]; have == nil {
			written, err = api.Create(c.ctx, fresh, metav1.CreateOptions{})
		} else {
			fresh.ObjectMeta = have.ObjectMeta
			written, err = api.Update(c.ctx, fresh, metav1.UpdateOptions{})
		}
		if err == nil {
			c.policies[i] = written
		}
		return err
	})
}

// deletePolicy deletes the ith policy, if there is one.
func (c *Cluster) deletePolicy(i int) error {
	np := c.policies[i]
	if np == nil {
		return nil
	}
	err := c.api.NetworkingV1().NetworkPolicies(np.Namespace).Delete(c.ctx, np.Name, metav1.DeleteOptions{})
	if err == nil {
		delete(c.policies, i)
	}
	return c.count(err)
}

// Clear deletes all pods and policies that come and go, and has the nodes and namespaces be
// those of the beginning.
func (c *Cluster) Clear() error {
	for i := range Pods {
		if err := c.deletePod(i, 0); err != nil {
			return err
		}
	}
	for i := range policies {
		if err := c.deletePolicy(i); err != nil {
			return err
		}
	}
	return c.restoreAround()
}
