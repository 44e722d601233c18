package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podfence/podfence/cni/netns"
)

// RESTConfig is for client-go, as cluster admin. Its connections start on the
// control plane's host.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.AdminConfig())
	if err != nil {
		return nil, err
	}
	config.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.InsidePath(filepath.Join(namesDir, c.netns(controlPlane)), func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	config.QPS, config.Burst = 200, 400
	return config, nil
}

// HostNetNS is the path of a host's network namespace, for Inside.
func (c *Cluster) HostNetNS(host string) string { return filepath.Join(namesDir, c.netns(host)) }

// PodProcess is the directory, in /proc of this machine, of the process that
// holds the namespaces of a pod on one of the nodes. The pod's others may end at
// any time.
func PodProcess(uid string) (string, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return "", err
	}
	for _, file := range found {
		dir := filepath.Dir(file)
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // the process may have ended
		if string(command) != pauseCommand {
			continue
		}
		if cgroup, _ := os.ReadFile(file); bytes.Contains(cgroup, []byte("pod"+uid)) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no process holds the namespaces of the pod with UID %s", uid)
}

// PodNetNS is the path of the network namespace of a pod on one of the nodes,
// for netns.InsidePath.
func PodNetNS(uid string) (string, error) {
	process, err := PodProcess(uid)
	return filepath.Join(process, "ns", "net"), err
}
