// Package apiserver runs an API server and etcd for tests and benchmarks that start
// the agent as a process. Those of controllers have envtest themselves, as is usual
// there.
package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Server is an API server with its etcd.
type Server struct {
	environment *envtest.Environment
	folder      string
	// API and Config are of one who may do everything, as fast as the server
	// answers; Kubeconfig is the same as a file's content.
	API        *kubernetes.Clientset
	Config     *rest.Config
	Kubeconfig []byte
}

// Start runs a server until the test ends. It returns how to log in (see Server).
func Start(t testing.TB) (*kubernetes.Clientset, *rest.Config, []byte) {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.API, s.Config, s.Kubeconfig
}

// New starts a server, from KUBEBUILDER_ASSETS, or else from where
// `make envtest-assets` has put it.
func New() (s *Server, err error) {
	s = &Server{}
	assets, err := Assets()
	if err != nil {
		return nil, err
	}
	ctrl.SetLogger(logr.Discard())
	// With a folder of ours, the server has the same certificates when it is
	// started again.
	if s.folder, err = os.MkdirTemp("", "podfence-apiserver-"); err != nil {
		return nil, err
	}
	s.environment = &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: startTimeout}
	s.environment.ControlPlane.GetAPIServer().CertDir = s.folder
	if s.Config, err = s.environment.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Config.QPS, s.Config.Burst, s.Config.WarningHandler = -1, -1, rest.NoWarnings{}
	s.Config.ContentType = kruntime.ContentTypeProtobuf
	s.Kubeconfig = s.environment.KubeConfig
	if s.API, err = kubernetes.NewForConfig(s.Config); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// startTimeout is for a machine that is busy with other things.
const startTimeout = 2 * time.Minute

// Kill ends the API server alone, as a crash does: etcd keeps what there is.
func (s *Server) Kill() error {
	pid, err := s.pid()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill kube-apiserver: %w", err)
	}
	// envtest has a goroutine that waits for it.
	for syscall.Kill(pid, 0) == nil {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// pid finds the process, which envtest keeps to itself.
func (s *Server) pid() (int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range paths {
		arguments, err := os.ReadFile(path)
		if err == nil && bytes.Contains(arguments, []byte("--cert-dir="+s.folder+"\x00")) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, errors.New("kube-apiserver is not running")
}

// Resume starts it again after Kill, at the same address, and waits until it
// answers.
func (s *Server) Resume() error { return s.environment.ControlPlane.GetAPIServer().Start() }

// Etcd is where its etcd answers, over HTTP.
func (s *Server) Etcd() string { return s.environment.ControlPlane.Etcd.URL.String() }

// Close ends both, with all that there was.
func (s *Server) Close() error { return errors.Join(s.environment.Stop(), os.RemoveAll(s.folder)) }

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
