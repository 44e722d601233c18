package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"

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
	pods       = 40
	namespaces = 3
	policies   = 12
)

// cluster is what has been written to the API server: every object is as its
// last answer had it. It is for one goroutine.
type cluster struct {
	ctx context.Context
	api *kubernetes.Clientset
	r   *rand.Rand

	nodes      []*corev1.Node
	namespaces map[string]*corev1.Namespace
	// pods and policies are those that come and go, by number.
	pods     map[int]*corev1.Pod
	policies map[int]*networkingv1.NetworkPolicy
	// steadyPods and steadyPolicies stay as they are.
	steadyPods     []*corev1.Pod
	steadyPolicies []*networkingv1.NetworkPolicy

	// writes are those that the API server took, rejected those that it found
	// invalid.
	writes, rejected int
}

// newCluster writes the nodes and the namespaces.
func newCluster(ctx context.Context, api *kubernetes.Clientset, r *rand.Rand) (*cluster, error) {
	c := &cluster{
		ctx: ctx, api: api, r: r,
		namespaces: map[string]*corev1.Namespace{}, pods: map[int]*corev1.Pod{}, policies: map[int]*networkingv1.NetworkPolicy{},
	}
	for _, node := range random.Nodes() {
		status := node.Status
		written, err := api.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		written.Status.Addresses = status.Addresses
		if written, err = api.CoreV1().Nodes().UpdateStatus(ctx, written, metav1.UpdateOptions{}); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, written)
	}
	for i := range namespaces {
		if err := c.createNamespace(random.Namespace(r, i)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// createNamespace writes a namespace.
func (c *cluster) createNamespace(ns *corev1.Namespace) error {
	written, err := c.api.CoreV1().Namespaces().Create(c.ctx, ns, metav1.CreateOptions{})
	if err == nil {
		c.namespaces[ns.Name] = written
	}
	return err
}

// snapshot is the cluster as it is now.
func (c *cluster) snapshot() policy.Snapshot {
	s := policy.Snapshot{Nodes: c.nodes, Pods: slices.Clone(c.steadyPods), Policies: slices.Clone(c.steadyPolicies)}
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

// change makes one random change.
func (c *cluster) change() error {
	i := c.r.Intn(pods)
	pod, n := c.pods[i], c.r.Intn(16)
	switch {
	case n < 2 || n < 7 && pod == nil:
		return c.replacePod(i, func() *corev1.Pod { return random.Pod(c.r, i) })
	case n < 3:
		return c.replacePod(i, func() *corev1.Pod { return random.OddPod(c.r, i, pods) })
	case n < 5:
		return c.relabelPod(i)
	case n < 6:
		return c.count(c.writeStatus(i, random.OddPod(c.r, i, pods).Status))
	case n < 7:
		return c.deletePod(i, grace)
	case n < 8 && pod != nil:
		return c.deletePod(i, 0)
	case n < 10:
		return c.relabelNamespace()
	case n < 14:
		return c.writePolicy(c.r.Intn(policies))
	}
	return c.deletePolicy(c.r.Intn(policies))
}

// count counts a write; one that the API server finds invalid is no error.
func (c *cluster) count(err error) error {
	if apierrors.IsInvalid(err) {
		c.rejected++
		return nil
	}
	if err == nil {
		c.writes++
	}
	return err
}

// draws is how many objects are made at most until the API server takes one.
const draws = 20

// untilAccepted calls write, which draws an object anew, until one is taken.
func (c *cluster) untilAccepted(write func() error) error {
	var err error
	for range draws {
		if err = write(); !apierrors.IsInvalid(err) {
			return c.count(err)
		}
		c.rejected++
	}
	return fmt.Errorf("%d rejected in a row, the last: %w", draws, err)
}

// replacePod makes a pod in place of the ith, if there is one: node and
// containers of a pod cannot change.
func (c *cluster) replacePod(i int, draw func() *corev1.Pod) error {
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
func (c *cluster) createPod(want *corev1.Pod) (*corev1.Pod, error) {
	pod := want.DeepCopy()
	pod.UID, pod.DeletionTimestamp = "", nil
	no := false
	pod.Spec.AutomountServiceAccountToken = &no
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i].Image = "image"
		}
	}
	return c.api.CoreV1().Pods(pod.Namespace).Create(c.ctx, pod, metav1.CreateOptions{})
}

// writeStatus gives the ith pod a status. If the API server rejects that, the
// pod is as before.
func (c *cluster) writeStatus(i int, status corev1.PodStatus) error {
	pod, err := c.updateStatus(c.pods[i], status)
	if err == nil {
		c.pods[i] = pod
	}
	return err
}

// updateStatus gives a pod what policy sees of a status, and returns the pod.
func (c *cluster) updateStatus(pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	pod = pod.DeepCopy()
	pod.Status.Phase, pod.Status.StartTime = status.Phase, status.StartTime
	pod.Status.PodIP, pod.Status.PodIPs = status.PodIP, status.PodIPs
	return c.api.CoreV1().Pods(pod.Namespace).UpdateStatus(c.ctx, pod, metav1.UpdateOptions{})
}

// relabelPod gives the ith pod other labels.
func (c *cluster) relabelPod(i int) error {
	pod := c.pods[i].DeepCopy()
	pod.Labels = random.Labels(c.r)
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
func (c *cluster) deletePod(i int, grace int64) error {
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
func (c *cluster) relabelNamespace() error {
	fresh := random.Namespace(c.r, c.r.Intn(namespaces))
	ns := c.namespaces[fresh.Name].DeepCopy()
	ns.Labels = fresh.Labels
	written, err := c.api.CoreV1().Namespaces().Update(c.ctx, ns, metav1.UpdateOptions{})
	if err == nil {
		c.namespaces[ns.Name] = written
	}
	return c.count(err)
}

// writePolicy creates the ith policy, or gives it another spec.
func (c *cluster) writePolicy(i int) error {
	return c.untilAccepted(func() error {
		fresh := random.Policy(c.r, i)
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
func (c *cluster) deletePolicy(i int) error {
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

// clear deletes all that comes and goes.
func (c *cluster) clear() error {
	for i := range pods {
		if err := c.deletePod(i, 0); err != nil {
			return err
		}
	}
	for i := range policies {
		if err := c.deletePolicy(i); err != nil {
			return err
		}
	}
	return nil
}

// judge fails the test if much of what was drawn is no valid object.
func (c *cluster) judge(t *testing.T) {
	t.Helper()
	t.Logf("%d writes, and %d that the API server rejected", c.writes, c.rejected)
	if 10*c.rejected > c.writes {
		t.Errorf("the API server rejected %d objects and took %d", c.rejected, c.writes)
	}
}
