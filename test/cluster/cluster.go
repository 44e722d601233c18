package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// IPFamily of pods, Services and nodes.
type IPFamily string

// The families that a cluster can have.
const (
	IPv4 IPFamily = "ipv4"
	Dual IPFamily = "dual"
)

// Options are what a cluster is made of. They are written to its directory, and
// Open reads them from there.
type Options struct {
	// Name begins the names of the cluster's network namespaces.
	Name string `json:"name"`
	// Nodes is how many there are, at most 9.
	Nodes    int      `json:"nodes"`
	IPFamily IPFamily `json:"ipFamily"`
	// KubeProxy is its mode: nftables or iptables.
	KubeProxy string `json:"kubeProxy"`
	// Bin holds the programs that test/assets builds, and podfence-cluster.
	Bin string `json:"bin"`
	// Images are archives that each node has from its start. Among them must be
	// PauseImage.
	Images []string `json:"images"`
}

// root is where clusters live. It must be short, as sockets are below it, and
// on a file system that can hold the upper half of an overlay.
const root = "/var/lib/podfence-cluster"

// PauseImage is the image that holds a pod's namespaces.
const PauseImage = "registry.k8s.io/pause:3.10.1"

// pauseCommand is what runs of it; see images/Dockerfile.
const pauseCommand = "/agnhost\x00pause\x00"

// Cluster is a cluster that is up, or partly so.
type Cluster struct {
	Options
	dir string
	out io.Writer
}

func (o Options) validate() error {
	switch {
	case o.Name == "" || strings.ContainsAny(o.Name, "/ ") || len(o.Name) > 8:
		return fmt.Errorf("name of the cluster %q: must have 1 to 8 characters, and no / or space", o.Name)
	case o.Nodes < 1 || o.Nodes > 9:
		return fmt.Errorf("%d nodes: must be 1 to 9", o.Nodes)
	case o.IPFamily != IPv4 && o.IPFamily != Dual:
		return fmt.Errorf("IP family %q: must be %s or %s", o.IPFamily, IPv4, Dual)
	case o.KubeProxy != "nftables" && o.KubeProxy != "iptables":
		return fmt.Errorf("kube-proxy mode %q: must be nftables or iptables", o.KubeProxy)
	}
	return nil
}

// Up starts a cluster and returns when its API server answers and all nodes
// have registered. Without a network plugin they are not Ready yet. It writes
// progress to out. When it fails, what it started is left for a look at the
// logs, and for Down.
func Up(ctx context.Context, o Options, out io.Writer) (*Cluster, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{Options: o, dir: filepath.Join(root, o.Name), out: out}
	if _, err := os.Stat(c.dir); err == nil {
		return nil, fmt.Errorf("cluster %s is up, or half up: %s exists; remove it with `podfence-cluster down`", o.Name, c.dir)
	}
	if err := os.MkdirAll(filepath.Join(c.dir, "log"), 0o755); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(c.dir, "options.json"), o); err != nil {
		return nil, err
	}
	if err := c.makeCredentials(); err != nil {
		return nil, fmt.Errorf("certificates and tokens: %w", err)
	}
	if err := c.makeSwitch(); err != nil {
		return nil, fmt.Errorf("the switch between the hosts: %w", err)
	}
	c.say("starting the control plane")
	if err := c.startControlPlane(); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	for n := 1; n <= o.Nodes; n++ {
		c.say("starting %s", NodeName(n))
		if err := c.startNode(n); err != nil {
			return nil, fmt.Errorf("%s: %w", NodeName(n), err)
		}
	}
	c.say("waiting for the API server and the nodes; logs are in %s", filepath.Join(c.dir, "log"))
	err := c.poll(ctx, 3*time.Minute, "nodes to register", func() error {
		out, err := c.Kubectl(ctx, "get", "nodes", "-o", "name")
		if err != nil {
			return err
		}
		if n := strings.Count(out, "\n"); n < o.Nodes {
			return fmt.Errorf("%d of %d nodes have", n, o.Nodes)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Open returns the cluster of that name, which Up has started.
func Open(name string) (*Cluster, error) {
	c := &Cluster{dir: filepath.Join(root, name), out: io.Discard}
	data, err := os.ReadFile(filepath.Join(c.dir, "options.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no cluster %q is up; start one with `make cluster-up`", name)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &c.Options); err != nil {
		return nil, fmt.Errorf("%s/options.json: %w", c.dir, err)
	}
	return c, nil
}

// Down removes the cluster of that name, whatever state it is in: its
// processes, which are those in its namespaces, their cgroups, and its
// directory. What isn't there needs no removal.
func Down(ctx context.Context, name string) error {
	if err := (Options{Name: name, Nodes: 1, IPFamily: IPv4, KubeProxy: "nftables"}).validate(); err != nil {
		return err
	}
	c := &Cluster{Options: Options{Name: name}, dir: filepath.Join(root, name), out: io.Discard}
	namespaces, err := c.namespaces()
	if err != nil {
		return err
	}
	var errs []error
	// The nodes before the control plane, so that kubelets don't complain.
	slices.Reverse(namespaces)
	for _, ns := range namespaces {
		errs = append(errs, c.removeHost(ctx, ns))
	}
	errs = append(errs, removeCgroups(name))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cluster %s is down in part: %w", name, err)
	}
	return os.RemoveAll(c.dir)
}

// NodeName is the name of the nth node, from 1.
func NodeName(n int) string { return fmt.Sprintf("node%d", n) }

// NodeIP is the nth node's IPv4 address.
func NodeIP(n int) string { return fmt.Sprintf("172.30.0.%d", 10+n) }

// NodeIP6 is the nth node's IPv6 address.
func NodeIP6(n int) string { return fmt.Sprintf("fd30::%d", 10+n) }

// Log is where the output of a service of a host is kept.
func (c *Cluster) Log(host, service string) string {
	return filepath.Join(c.dir, "log", host+"-"+service+".log")
}

// AuditLog is the API server's record of what podfence's agents asked of it.
func (c *Cluster) AuditLog() string { return filepath.Join(c.dir, "log", "audit.log") }

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.out, "cluster: "+format+"\n", args...)
}

// poll calls try until it succeeds, and returns its last error when the time is
// up.
func (c *Cluster) poll(ctx context.Context, limit time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o600)
}
