package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
)

// TestMain makes this program be a host's first process, if it is called so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == initName {
		if err := Init(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func TestOptions(t *testing.T) {
	good := Options{Name: "fence", Nodes: 2, IPFamily: Dual, KubeProxy: "iptables"}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"name":       func(o *Options) { o.Name = "a/b" },
		"characters": func(o *Options) { o.Name = "" },
		"10 nodes":   func(o *Options) { o.Nodes = 10 },
		"0 nodes":    func(o *Options) { o.Nodes = 0 },
		"ipv6":       func(o *Options) { o.IPFamily = "ipv6" },
		"ipvs":       func(o *Options) { o.KubeProxy = "ipvs" },
	} {
		bad := good
		change(&bad)
		if err := bad.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want something of %q", bad, err, want)
		}
	}
}

// TestCredentials: each certificate is for what it is used for, and each
// component's kubeconfig has a token that the API server will know.
func TestCredentials(t *testing.T) {
	c := &Cluster{Options: Options{Name: "t", Nodes: 2}, dir: t.TempDir()}
	if err := c.makeCredentials(); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.pki(caCert))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("the authority's certificate is none")
	}
	for _, use := range []struct {
		cert, key, name string
		usage           x509.ExtKeyUsage
	}{
		{apiServerCert, apiServerKey, controlPlaneIP, x509.ExtKeyUsageServerAuth},
		{apiServerCert, apiServerKey, "kubernetes.default.svc", x509.ExtKeyUsageServerAuth},
		{toKubeletCert, toKubeletKey, "", x509.ExtKeyUsageClientAuth},
	} {
		pair, err := tls.LoadX509KeyPair(c.pki(use.cert), c.pki(use.key))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: use.name, KeyUsages: []x509.ExtKeyUsage{use.usage}}); err != nil {
			t.Errorf("%s for %q: %v", use.cert, use.name, err)
		}
	}
	known, err := os.ReadFile(c.pki(tokens))
	if err != nil {
		t.Fatal(err)
	}
	for component, user := range map[string]string{"admin": "kubernetes-admin", "kube-proxy": "system:kube-proxy", "node2": "system:node:node2"} {
		config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig(component))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(known), config.BearerToken+","+user+",") {
			t.Errorf("%s: its token is not that of %s", component, user)
		}
	}
	if err := filepath.WalkDir(c.pki(""), func(path string, entry os.DirEntry, err error) error {
		if info, _ := entry.Info(); !strings.HasSuffix(path, ".crt") && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others: %s", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestDown removes what there is of a cluster that was not made to the end, and
// ends no other's process.
func TestDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it makes network namespaces, which needs root")
	}
	ctx := context.Background()
	c := &Cluster{Options: Options{Name: "t-down"}, dir: filepath.Join(root, "t-down"), out: io.Discard}
	for range 2 { // the second time there is nothing
		if err := Down(ctx, c.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.makeSwitch(), c.makeNetwork(NodeName(1), NodeIP(1), NodeIP6(1))); err != nil {
		t.Fatal(err)
	}
	// A name without a namespace behind it.
	if err := os.WriteFile(filepath.Join(namesDir, c.netns(NodeName(2))), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := makeCgroup(c.Name, NodeName(1)); err != nil {
		t.Fatal(err)
	}
	inside := exec.Command("nsenter", "--net="+c.HostNetNS(NodeName(1)), "sleep", "600")
	outside := exec.Command("sleep", "600")
	for _, cmd := range []*exec.Cmd{inside, outside} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	// It has entered, or it is not the cluster's yet.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if out, _ := exec.Command("ip", "netns", "pids", c.netns(NodeName(1))).Output(); len(out) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the process is not in the namespace")
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- inside.Wait() }()
	if err := Down(ctx, c.Name); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the process in the node's namespace lives")
	}
	if err := outside.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the process outside: %v", err)
	}
	if left, err := c.namespaces(); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %s, %v", c.dir, err)
	}
	dirs, _, err := hierarchies()
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "podfence-cluster", c.Name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: cgroup in %s, %v", dir, err)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// TestHost: a host has namespaces and a root of its own; its services come up
// in order, and again when they end.
func TestHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it makes namespaces, which needs root")
	}
	ctx := context.Background()
	c := &Cluster{Options: Options{Name: "t-host", Bin: t.TempDir()}, dir: filepath.Join(root, "t-host"), out: io.Discard}
	t.Cleanup(func() {
		if err := Down(ctx, c.Name); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(Down(ctx, c.Name), os.MkdirAll(filepath.Join(c.dir, "log"), 0o755), os.Symlink(self, filepath.Join(c.Bin, initName)),
		c.makeSwitch(), c.makeNetwork(NodeName(1), NodeIP(1), NodeIP6(1)))
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(c.hostDir(NodeName(1)), "root")
	spec := hostSpec{
		Name: NodeName(1), Path: hostPath, LogDir: filepath.Join(c.dir, "log"),
		Root: &rootSpec{Dir: tree, Show: []string{c.Bin}},
		Services: []service{
			{Name: "first", Command: []string{"sh", "-c", "echo $$ >>/var/runs; hostname >/var/name; echo 7 >/proc/sys/vm/panic_on_oom; exec sleep 0.1"}, Ready: []string{"sh", "-c", "test $(wc -l </var/runs) -ge 2"}},
			{Name: "second", Command: []string{"sh", "-c", "cp /var/runs /var/seen && touch /run/lost /etc/kept"}, Once: true},
			{Name: "third", Command: []string{"sh", "-c", "touch /var/third; exec tail -f /dev/null"}},
		},
	}
	machine, err := os.ReadFile("/proc/sys/vm/panic_on_oom")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.startHost(spec); err != nil {
		t.Fatal(err)
	}
	if err := c.poll(ctx, 30*time.Second, "the third service", func() error {
		_, err := os.Stat(filepath.Join(tree, "tree/var/third"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	enter, err := c.Exec(ctx, NodeName(1), "cat", "/var/name")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := enter.CombinedOutput(); strings.TrimSpace(string(out)) != NodeName(1) || err != nil {
		t.Errorf("inside the host: %q, %v", out, err)
	}
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(tree, path))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
	if n := len(strings.Fields(read("tree/var/seen"))); n < 2 {
		t.Errorf("the second service has started when the first had done so %d times: it was not ready", n)
	}
	if name := read("tree/var/name"); name != NodeName(1) {
		t.Errorf("host name %q", name)
	}
	read("etc/kept")
	if _, err := os.Stat("/etc/kept"); err == nil {
		t.Error("the host writes in the machine's /etc")
	}
	if now, err := os.ReadFile("/proc/sys/vm/panic_on_oom"); string(now) != string(machine) || err != nil {
		t.Errorf("the machine's sysctl is %q, %v", now, err)
	}

	// One that was ended by a signal comes up again.
	third := filepath.Join(tree, "tree/var/third")
	if err := errors.Join(os.Remove(third), c.Signal(NodeName(1), "tail", unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if err := c.poll(ctx, 10*time.Second, "the third service to start again", func() error {
		_, err := os.Stat(third)
		return err
	}); err != nil {
		t.Error(err)
	}
	if err := c.Signal(NodeName(1), "fourth", unix.SIGKILL); err == nil {
		t.Error("a service that there is not was signalled")
	}

	// What must succeed and does not ends the host, and says so.
	if err := c.removeHost(ctx, c.netns(NodeName(1))); err != nil {
		t.Fatal(err)
	}
	spec.Name, spec.Services = NodeName(2), []service{{Name: "fails", Command: []string{"sh", "-c", "exit 3"}, Once: true}}
	if err := c.makeNetwork(NodeName(2), NodeIP(2), NodeIP6(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.startHost(spec); err != nil {
		t.Fatal(err)
	}
	if err := c.poll(ctx, 10*time.Second, "its end", func() error {
		said, err := os.ReadFile(c.Log(NodeName(2), "init"))
		if err == nil && !strings.Contains(string(said), "0x300") {
			err = errors.New(string(said))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
