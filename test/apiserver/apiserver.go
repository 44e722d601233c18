// Package apiserver runs an API server and etcd for tests and benchmarks that start
// the agent as a process. Those of controllers have envtest themselves, as is usual
// there.
package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Start runs them until the test ends, from KUBEBUILDER_ASSETS, or else from where
// `make envtest-assets` has put them. It returns how to log in as one who may do
// everything, as fast as the server answers, and as a kubeconfig too.
func Start(t testing.TB) (*kubernetes.Clientset, *rest.Config, []byte) {
	t.Helper()
	folder, err := Assets()
	if err != nil {
		t.Fatal(err)
	}
	ctrl.SetLogger(logr.Discard())
	environment := &envtest.Environment{BinaryAssetsDirectory: folder, ControlPlaneStartTimeout: 2 * time.Minute}
	config, err := environment.Start()
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst, config.WarningHandler = -1, -1, rest.NoWarnings{}
	config.ContentType = kruntime.ContentTypeProtobuf
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return api, config, environment.KubeConfig
}

// Assets is the folder with kube-apiserver and etcd. It is an error if they are not
// there.
func Assets() (string, error) {
	folder := os.Getenv("KUBEBUILDER_ASSETS")
	if folder == "" {
		_, here, _, _ := runtime.Caller(0)
		folder = filepath.Join(filepath.Dir(here), "..", "..", "bin", "assets")
	}
	for _, binary := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(folder, binary)); err != nil {
			return "", fmt.Errorf("an API server is needed, but there is no %s in %s: run `make envtest-assets`", binary, folder)
		}
	}
	return folder, nil
}
