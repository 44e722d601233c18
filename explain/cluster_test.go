package explain_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// load reads objects from files of testdata/mistakes.
func load(t *testing.T, names ...string) *explain.Cluster {
	t.Helper()
	for i, name := range names {
		names[i] = filepath.Join("mistakes", name)
	}
	return readCluster(t, names...)
}

// readCluster reads objects from files of testdata.
func readCluster(t *testing.T, names ...string) *explain.Cluster {
	t.Helper()
	c := &explain.Cluster{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		addObjects(t, c, name, data)
	}
	return c
}

// theShop is a small cluster, and its policies.
func theShop(t *testing.T) *explain.Cluster {
	t.Helper()
	return readCluster(t, "shop/cluster.yaml", "shop/policies.yaml")
}

func parseCluster(t *testing.T, text string) *explain.Cluster {
	t.Helper()
	c := &explain.Cluster{}
	addObjects(t, c, "a text", []byte(text))
	return c
}

// addObjects adds to a cluster the objects of a file.
func addObjects(t *testing.T, c *explain.Cluster, name string, data []byte) {
	t.Helper()
	docs := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	for buffer := make([]byte, len(data)+1); ; {
		n, err := docs.Read(buffer)
		if errors.Is(err, io.EOF) || err == nil && len(bytes.TrimSpace(buffer[:n])) == 0 {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch o := object.(type) {
		case *corev1.Node:
			c.Nodes = append(c.Nodes, o)
		case *corev1.Namespace:
			c.Namespaces = append(c.Namespaces, o)
		case *corev1.Pod:
			c.Pods = append(c.Pods, o)
		case *corev1.Service:
			c.Services = append(c.Services, o)
		case *networkingv1.NetworkPolicy:
			c.Policies = append(c.Policies, o)
		case *appsv1.Deployment:
			c.Workloads = append(c.Workloads, workload(kind, o.ObjectMeta))
		case *appsv1.ReplicaSet:
			c.Workloads = append(c.Workloads, workload(kind, o.ObjectMeta))
		case *appsv1.StatefulSet:
			c.Workloads = append(c.Workloads, workload(kind, o.ObjectMeta))
		default:
			t.Fatalf("%s: a %T", name, object)
		}
	}
}

func workload(kind *schema.GroupVersionKind, meta metav1.ObjectMeta) *metav1.PartialObjectMetadata {
	w := &metav1.PartialObjectMetadata{ObjectMeta: meta}
	w.SetGroupVersionKind(*kind)
	return w
}

func newExplainer(c *explain.Cluster) *explain.Explainer {
	return explain.New(c, policy.JudgeOptions{})
}
