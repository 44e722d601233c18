package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/template"
	"time"
)

var (
	//go:embed kubelet.yaml
	kubeletConfig string
	//go:embed containerd.toml
	containerdConfig string
)

// startNode starts the nth node. A node that was there before has its disk yet.
func (c *Cluster) startNode(n int) error {
	name := NodeName(n)
	if err := c.makeNetwork(name, NodeIP(n), NodeIP6(n)); err != nil {
		return err
	}
	dir := c.hostDir(name)
	cgroup, err := makeCgroup(c.Name, name)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	values := map[string]string{
		"CA": c.pki(caCert), "Cgroup": cgroup, "DNS": dnsIP, "Resolv": filepath.Join(dir, "resolv.conf"), "Pause": PauseImage,
	}
	for file, text := range map[string]string{"kubelet.yaml": kubeletConfig, "containerd.toml": containerdConfig, "resolv.conf": ""} {
		if err := writeTemplate(filepath.Join(dir, file), text, values); err != nil {
			return err
		}
	}
	spec := hostSpec{Name: name, Path: c.Bin + ":" + hostPath, LogDir: filepath.Join(c.dir, "log"),
		// The programs, the images and the configuration are seen as the caller sees them.
		Root: &rootSpec{Dir: filepath.Join(dir, "root"), Show: []string{c.Bin, c.dir}},
	}
	for _, image := range c.Images {
		if shown := filepath.Dir(image); !slices.Contains(spec.Root.Show, shown) {
			spec.Root.Show = append(spec.Root.Show, shown)
		}
	}
	spec.Services = []service{{Name: "containerd", Command: []string{"containerd", "--config", filepath.Join(dir, "containerd.toml")}, Ready: []string{"ctr", "version"}}}
	for _, image := range c.Images {
		spec.Services = append(spec.Services, service{Name: "images", Command: importCommand(image), Once: true})
	}
	spec.Services = append(spec.Services,
		service{Name: "kubelet", Command: []string{"kubelet",
			"--config", filepath.Join(dir, "kubelet.yaml"), "--kubeconfig", c.kubeconfig(name),
			"--hostname-override", name, "--node-ip", c.ranges(NodeIP(n), NodeIP6(n))}},
		service{Name: "kube-proxy", Command: []string{"kube-proxy",
			"--kubeconfig", c.kubeconfig("kube-proxy"), "--hostname-override", name,
			"--proxy-mode", c.KubeProxy, "--cluster-cidr", c.ranges(podCIDR, podCIDR6),
			// The sizes of the conntrack table are the machine's.
			"--conntrack-max-per-core", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0"}},
	)
	return c.startHost(spec)
}

// RestartNode tears the nth node's namespaces down, as a loss of power would,
// calls between if it is not nil, and starts the node again. Its pods, nftables
// tables, links and /run are lost; its disk is kept.
func (c *Cluster) RestartNode(ctx context.Context, n int, between func() error) error {
	if err := c.removeHost(ctx, c.netns(NodeName(n))); err != nil {
		return fmt.Errorf("stop %s: %w", NodeName(n), err)
	}
	// kubelet would look into each of a container's, one after the other.
	if err := removeCgroups(c.Name, NodeName(n)); err != nil {
		return err
	}
	// The kernel takes its time to remove a namespace's links, and the other end
	// of eth0 with them.
	sw := "-n " + c.netns("switch") + " link "
	err := c.poll(ctx, 10*time.Second, "the link to "+NodeName(n)+" to go", func() error {
		_ = ipCommands(sw + "del " + NodeName(n)) // it may be gone in between
		if ipCommands(sw+"show "+NodeName(n)) == nil {
			return errors.New("it is there")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	if err := c.startNode(n); err != nil {
		return fmt.Errorf("start %s: %w", NodeName(n), err)
	}
	return nil
}

func importCommand(archive string) []string {
	return []string{"ctr", "--namespace", "k8s.io", "images", "import", "--local", archive}
}

// LoadImage imports an image archive into every node's containerd.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	for n := 1; n <= c.Nodes; n++ {
		if err := c.LoadImageOn(ctx, NodeName(n), archive); err != nil {
			return err
		}
	}
	return nil
}

// LoadImageOn imports an image archive into one node's containerd.
func (c *Cluster) LoadImageOn(ctx context.Context, node, archive string) error {
	cmd, err := c.Exec(ctx, node, importCommand("/dev/stdin")...)
	if err != nil {
		return err
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd.Stdin = file
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s on %s: %w: %s", archive, node, err, bytes.TrimSpace(out))
	}
	return nil
}

// WaitReady returns when all nodes are Ready.
func (c *Cluster) WaitReady(ctx context.Context, limit time.Duration) error {
	_, err := c.Kubectl(ctx, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout="+limit.String())
	return err
}

func writeTemplate(path, text string, values map[string]string) error {
	t, err := template.New(filepath.Base(path)).Option("missingkey=error").Parse(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
