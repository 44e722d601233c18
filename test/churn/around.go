package churn

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/random"
)

// changeAround changes what pods and policies are in: a node or a namespace comes, goes, or
// comes back otherwise.
func (c *Cluster) changeAround() error {
	if c.Rand.Intn(2) == 0 {
		return c.deleteNamespace(random.Namespace(c.Rand, c.Rand.Intn(namespaces)).Name)
	}
	node := random.AnyNode(c.Rand)
	if node.Name == random.Node {
		if c.KeepNode {
			return nil
		}
		// Which of several ranges it has seen is the agent's to know: there are no others.
		i := slices.IndexFunc(random.Nodes(), func(n *corev1.Node) bool { return n.Name == node.Name })
		node.Spec = random.Nodes()[i].Spec
	}
	if c.nodes[node.Name] != nil {
		// The API server does not let ranges change.
		if err := c.deleteNode(node.Name); err != nil || c.Rand.Intn(2) == 0 {
			return err
		}
	}
	return c.count(c.writeNode(node))
}

// restoreAround makes the nodes and namespaces those of the beginning.
func (c *Cluster) restoreAround() error {
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		if err := c.deleteNode(name); err != nil {
			return err
		}
	}
	for _, node := range random.Nodes() {
		if err := c.count(c.writeNode(node)); err != nil {
			return err
		}
	}
	for i := range namespaces {
		if err := c.ensureNamespace(random.Namespace(c.Rand, i).Name); err != nil {
			return err
		}
	}
	return nil
}

// deleteNode deletes a node.
func (c *Cluster) deleteNode(name string) error {
	err := c.api.CoreV1().Nodes().Delete(c.ctx, name, metav1.DeleteOptions{})
	if err == nil {
		delete(c.nodes, name)
	}
	return c.count(err)
}

// writeNode creates a node, with its addresses.
func (c *Cluster) writeNode(node *corev1.Node) error {
	written, err := c.api.CoreV1().Nodes().Create(c.ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	c.nodes[node.Name] = written
	written = written.DeepCopy()
	written.Status.Addresses = node.Status.Addresses
	if written, err = c.api.CoreV1().Nodes().UpdateStatus(c.ctx, written, metav1.UpdateOptions{}); err == nil {
		c.nodes[node.Name] = written
	}
	return err
}

// deleteNamespace deletes a namespace, if it is there, as its controller does, but leaves
// its pods and policies: they go later.
func (c *Cluster) deleteNamespace(name string) error {
	if c.namespaces[name] == nil {
		return nil
	}
	api := c.api.CoreV1().Namespaces()
	if err := api.Delete(c.ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	ending, err := api.Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	ending.Spec.Finalizers = nil
	if _, err := api.Finalize(c.ctx, ending, metav1.UpdateOptions{}); err != nil {
		return err
	}
	c.Writes++
	delete(c.namespaces, name)
	return nil
}

// ensureNamespace makes a namespace if it is not there: else nothing can be written in it.
func (c *Cluster) ensureNamespace(name string) error {
	if c.namespaces[name] != nil {
		return nil
	}
	i := 0
	for random.Namespace(c.Rand, i).Name != name {
		i++
	}
	return c.createNamespace(random.Namespace(c.Rand, i))
}
