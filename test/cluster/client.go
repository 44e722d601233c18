package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// RESTConfig is for client-go, as cluster admin. Its connections start on the
// control plane's host.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.AdminConfig())
	if err != nil {
		return nil, err
	}
	config.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = Inside(filepath.Join(namesDir, c.netns(controlPlane)), func() error {
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
		cgroup, _ := os.ReadFile(file) // the process may have ended
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if bytes.Contains(cgroup, []byte("pod"+uid)) && string(command) == pauseCommand {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no process holds the namespaces of the pod with UID %s", uid)
}

// PodNetNS is the path of the network namespace of a pod on one of the nodes,
// for Inside.
func PodNetNS(uid string) (string, error) {
	process, err := PodProcess(uid)
	return filepath.Join(process, "ns", "net"), err
}

// Inside calls f on a thread in the network namespace at path. Sockets that f
// opens stay in it.
func Inside(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine, so that
		// nothing else runs on it.
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", path, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
