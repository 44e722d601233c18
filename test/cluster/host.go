package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// initName is the program in Options.Bin whose command "init" calls Init.
const initName = "podfence-cluster"

// controlPlane is the name of the host that runs it.
const controlPlane = "cp"

// namesDir is where iproute2 keeps the names of network namespaces.
const namesDir = "/run/netns"

// netns is the name of a host's network namespace.
func (c *Cluster) netns(host string) string { return c.Name + "-" + host }

// namespaces are the names of those of the cluster that exist, sorted.
func (c *Cluster) namespaces() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(namesDir, c.Name+"-*"))
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found, err
}

// makeSwitch makes the namespace that the hosts meet in.
func (c *Cluster) makeSwitch() error {
	ns := c.netns("switch")
	return ipCommands(
		"netns add "+ns,
		"-n "+ns+" link set lo up",
		"-n "+ns+" link add switch type bridge",
		"-n "+ns+" link set switch up",
	)
}

// makeNetwork makes a host's network namespace, with eth0 on the switch.
func (c *Cluster) makeNetwork(host, ip, ip6 string) error {
	ns, sw := c.netns(host), c.netns("switch")
	err := ipCommands(
		"netns add "+ns,
		"-n "+ns+" link set lo up",
		"-n "+ns+" link add eth0 type veth peer name "+host+" netns "+sw,
		"-n "+sw+" link set "+host+" master switch up",
		"-n "+ns+" addr add "+ip+"/24 dev eth0",
		"-n "+ns+" addr add "+ip6+"/64 dev eth0 nodad",
		"-n "+ns+" link set eth0 up",
	)
	if err != nil || host == controlPlane {
		return err
	}
	// As a node's route to the world: what it is for can be sent, at least.
	return ipCommands(
		"-n "+ns+" route add default via "+controlPlaneIP,
		"-n "+ns+" -6 route add default via "+controlPlaneIP6,
	)
}

func ipCommands(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// startHost starts the host's first process in namespaces of its own, and
// returns once it has mounted all.
func (c *Cluster) startHost(s hostSpec) error {
	dir := c.hostDir(s.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	spec := filepath.Join(dir, "host.json")
	if err := writeJSON(spec, s); err != nil {
		return err
	}
	log, err := os.Create(c.Log(s.Name, "init"))
	if err != nil {
		return err
	}
	defer log.Close()
	// nsenter enters the network namespace and becomes podfence-cluster. (ip
	// netns exec would mount a new /sys, without the cgroups.)
	cmd := exec.Command("nsenter", "--net="+filepath.Join(namesDir, c.netns(s.Name)), filepath.Join(c.Bin, initName), "init", spec)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd.ExtraFiles = []*os.File{tell}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	// Init writes one byte when it has mounted all; if it ends before, the pipe closes.
	if n, _ := ready.Read(make([]byte, 1)); n == 0 {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("first process of %s: %w: %s", s.Name, cmd.Wait(), bytes.TrimSpace(said))
	}
	return cmd.Process.Release()
}

func (c *Cluster) hostDir(host string) string { return filepath.Join(c.dir, host) }

// removeHost kills all processes in a network namespace of the cluster, waits
// until they are gone, and removes its name. The first process's end ends those
// of its host in other namespaces, pods, and the mounts.
func (c *Cluster) removeHost(ctx context.Context, ns string) error {
	err := c.poll(ctx, 30*time.Second, "the processes in "+ns+" to end", func() error {
		out, err := exec.Command("ip", "netns", "pids", ns).CombinedOutput()
		if err != nil {
			// A name with nothing behind it, of a host that was not made to the end.
			return os.Remove(filepath.Join(namesDir, ns))
		}
		pids := strings.Fields(string(out))
		for _, pid := range pids {
			if pid, err := strconv.Atoi(pid); err == nil && pid > 1 {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return err
				}
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d are left: %s", len(pids), strings.Join(pids, " "))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(namesDir, ns)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return ipCommands("netns del " + ns)
}

// Exec makes a command to run on a host, "cp" or a node: in all its namespaces,
// as root.
func (c *Cluster) Exec(ctx context.Context, host string, command ...string) (*exec.Cmd, error) {
	pid, err := os.ReadFile(filepath.Join(c.hostDir(host), "pid"))
	if err != nil {
		return nil, fmt.Errorf("%s of cluster %s: %w", host, c.Name, err)
	}
	args := append([]string{"--target", string(pid), "--net", "--mount", "--uts", "--pid", "--ipc", "--"}, command...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), "PATH="+c.Bin+":"+hostPath)
	return cmd, nil
}

// hostPath is where programs are found on hosts, besides Options.Bin.
const hostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Kubectl runs kubectl as cluster admin and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd, err := c.KubectlCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// KubectlCommand makes a command that runs kubectl as cluster admin.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if _, err := os.Stat(c.AdminConfig()); err != nil {
		return nil, err
	}
	cmd := c.BesideKubectl(ctx, filepath.Join(c.Bin, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.AdminConfig()) // plugins take no flags before their names
	return cmd, nil
}

// BesideKubectl makes a command that runs a program where kubectl runs, such as one that uses a port that
// kubectl forwards. That is another network namespace; paths mean what they mean to the caller.
func (c *Cluster) BesideKubectl(ctx context.Context, program string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + filepath.Join(namesDir, c.netns(controlPlane)), program}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}
