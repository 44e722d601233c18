package soak

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
)

// startAPI runs an API server and etcd for the test. The second value is a
// kubeconfig for it.
func startAPI(t *testing.T) (*kubernetes.Clientset, []byte) {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join("..", "..", "bin", "assets")
	}
	for _, binary := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(assets, binary)); err != nil {
			t.Fatalf("the test needs an API server, but there is no %s in %s: run `make envtest-assets`", binary, assets)
		}
	}
	ctrl.SetLogger(logr.Discard())
	environment := &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute}
	config, err := environment.Start()
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, err)
	config.QPS, config.Burst, config.WarningHandler = -1, -1, rest.NoWarnings{}
	api, err := kubernetes.NewForConfig(config)
	must(t, err)
	return api, environment.KubeConfig
}

// startAgent runs the agent on the node until the test ends, as it is deployed
// but for profiles being served, and waits until it enforces.
func startAgent(t *testing.T, node *lab.Node, kubeconfig []byte) *agent.Agent {
	t.Helper()
	podfence := filepath.Join(t.TempDir(), "podfence")
	must(t, prebuilt.Podfence(podfence))
	a, err := agent.Start(agent.Options{Binary: podfence, Node: node, Kubeconfig: kubeconfig, Args: []string{"--pprof-address", "127.0.0.1:9480"}})
	must(t, err)
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		// The agent gets over errors, but none should be.
		if strings.Contains(a.Log(), "\tERROR\t") {
			t.Error("the agent has logged errors")
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", a.Log())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, a.AwaitReady(ctx))
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
