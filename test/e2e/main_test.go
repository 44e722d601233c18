//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/podfence/podfence/test/cluster"
)

// The cluster under test.
var (
	theCluster *cluster.Cluster
	config     *rest.Config
	client     *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	if err := connect(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func connect() (err error) {
	log.SetLogger(logr.Discard()) // that of a client, which has nothing to say
	if theCluster, err = cluster.Open(cmp.Or(os.Getenv("CLUSTER"), "fence")); err != nil {
		return err
	}
	if config, err = theCluster.RESTConfig(); err != nil {
		return err
	}
	if client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	theImage, err = findImage()
	return err
}

// kubectl runs kubectl as cluster admin.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := theCluster.Kubectl(context.Background(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
