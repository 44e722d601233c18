package cluster

import (
	_ "embed"
	"os"
	"path/filepath"
)

// Where the API server is.
const (
	controlPlaneIP  = "172.30.0.2"
	controlPlaneIP6 = "fd30::2"
)

// Ranges of pods and Services. The second half of each is for Dual.
const (
	podCIDR      = "10.244.0.0/16"
	podCIDR6     = "fd00:10:244::/56"
	serviceCIDR  = "10.96.0.0/16"
	serviceCIDR6 = "fd00:10:96::/112"
	dnsIP        = "10.96.0.10"
)

// auditPolicy keeps a record of podfence's requests, to see what of its
// permissions it uses.
//
//go:embed audit_policy.yaml
var auditPolicy []byte

func (c *Cluster) ranges(v4, v6 string) string {
	if c.IPFamily == Dual {
		return v4 + "," + v6
	}
	return v4
}

// startControlPlane starts the host cp. Its services start side by side and end
// while what they need is not there yet; Init starts them again.
func (c *Cluster) startControlPlane() error {
	if err := c.makeNetwork(controlPlane, controlPlaneIP, controlPlaneIP6); err != nil {
		return err
	}
	dir := c.hostDir(controlPlane)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	policy := filepath.Join(dir, "audit_policy.yaml")
	if err := os.WriteFile(policy, auditPolicy, 0o644); err != nil {
		return err
	}
	const etcd = "http://127.0.0.1:2379"
	services := c.ranges(serviceCIDR, serviceCIDR6)
	spec := hostSpec{Name: controlPlane, Path: c.Bin + ":" + hostPath, LogDir: filepath.Join(c.dir, "log")}
	spec.Services = []service{
		{Name: "etcd", Command: []string{"etcd",
			"--data-dir", filepath.Join(dir, "etcd"),
			"--unsafe-no-fsync", // the cluster's state need not outlive the machine
			"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", "http://127.0.0.1:2380"}},
		{Name: "kube-apiserver", Command: []string{"kube-apiserver",
			"--etcd-servers", etcd,
			"--advertise-address", controlPlaneIP, "--secure-port", "6443",
			"--tls-cert-file", c.pki(apiServerCert), "--tls-private-key-file", c.pki(apiServerKey),
			"--client-ca-file", c.pki(caCert),
			"--kubelet-client-certificate", c.pki(toKubeletCert), "--kubelet-client-key", c.pki(toKubeletKey),
			"--kubelet-preferred-address-types", "InternalIP",
			"--token-auth-file", c.pki(tokens),
			"--authorization-mode", "Node,RBAC",
			"--enable-admission-plugins", "NodeRestriction",
			"--service-cluster-ip-range", services,
			"--service-account-key-file", c.pki(serviceAccount), "--service-account-signing-key-file", c.pki(serviceAccount),
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
			"--allow-privileged",
			"--audit-policy-file", policy, "--audit-log-path", c.AuditLog()}},
		{Name: "kube-controller-manager", Command: []string{"kube-controller-manager",
			"--kubeconfig", c.kubeconfig("controller-manager"),
			"--allocate-node-cidrs", "--cluster-cidr", c.ranges(podCIDR, podCIDR6), "--service-cluster-ip-range", services,
			"--service-account-private-key-file", c.pki(serviceAccount), "--root-ca-file", c.pki(caCert),
			"--cluster-signing-cert-file", c.pki(caCert), "--cluster-signing-key-file", c.pki(caKey),
			"--use-service-account-credentials", "--leader-elect=false"}},
		{Name: "kube-scheduler", Command: []string{"kube-scheduler",
			"--kubeconfig", c.kubeconfig("scheduler"), "--leader-elect=false"}},
	}
	return c.startHost(spec)
}
