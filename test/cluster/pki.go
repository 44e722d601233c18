package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Files in the cluster's directory pki.
const (
	caCert         = "ca.crt"
	caKey          = "ca.key"
	apiServerCert  = "apiserver.crt"
	apiServerKey   = "apiserver.key"
	toKubeletCert  = "apiserver-kubelet-client.crt"
	toKubeletKey   = "apiserver-kubelet-client.key"
	serviceAccount = "sa.key"
	tokens         = "tokens.csv"
)

func (c *Cluster) pki(file string) string { return filepath.Join(c.dir, "pki", file) }

// kubeconfig is the credentials file of a component, by its short name.
func (c *Cluster) kubeconfig(component string) string { return c.pki(component + ".conf") }

// AdminConfig is the path of the cluster admin's kubeconfig. Its server is
// reachable from the cluster's hosts alone.
func (c *Cluster) AdminConfig() string { return c.kubeconfig("admin") }

// makeCredentials makes the certificate authority, the API server's
// certificates, and for each component a token with a kubeconfig. Each has the
// user and groups that Kubernetes' own roles are bound to.
func (c *Cluster) makeCredentials() error {
	if err := os.MkdirAll(c.pki(""), 0o700); err != nil {
		return err
	}
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := ca.write(c.pki(caCert), c.pki(caKey)); err != nil {
		return err
	}
	server, err := ca.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(controlPlaneIP), net.ParseIP(controlPlaneIP6), net.ParseIP("10.96.0.1"), net.ParseIP("fd00:10:96::1")},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	if err := server.write(c.pki(apiServerCert), c.pki(apiServerKey)); err != nil {
		return err
	}
	client, err := ca.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	if err := client.write(c.pki(toKubeletCert), c.pki(toKubeletKey)); err != nil {
		return err
	}
	signer, err := newKey()
	if err != nil {
		return err
	}
	if err := writeKey(c.pki(serviceAccount), signer); err != nil {
		return err
	}

	users := [][3]string{ // component, user, groups
		{"admin", "kubernetes-admin", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	}
	for n := 1; n <= c.Nodes; n++ {
		users = append(users, [3]string{NodeName(n), "system:node:" + NodeName(n), "system:nodes"})
	}
	var list strings.Builder
	for i, user := range users {
		raw := make([]byte, 16)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		token := hex.EncodeToString(raw)
		fmt.Fprintf(&list, "%s,%s,%d,%q\n", token, user[1], i+1, user[2])
		if err := c.writeKubeconfig(user[0], token); err != nil {
			return err
		}
	}
	return os.WriteFile(c.pki(tokens), []byte(list.String()), 0o600)
}

func (c *Cluster) writeKubeconfig(component, token string) error {
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: cluster, cluster: {server: "https://%s:6443", certificate-authority: %s}}]
users: [{name: user, user: {token: %s}}]
contexts: [{name: context, context: {cluster: cluster, user: user}}]
current-context: context
`, controlPlaneIP, c.pki(caCert), token)
	return os.WriteFile(c.kubeconfig(component), []byte(config), 0o600)
}

// authority is a certificate with its key.
type authority struct {
	der []byte
	crt *x509.Certificate
	key *ecdsa.PrivateKey
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newAuthority() (authority, error) {
	key, err := newKey()
	if err != nil {
		return authority{}, err
	}
	template := x509.Certificate{
		Subject:               pkix.Name{CommonName: "podfence-cluster"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return sign(template, &template, key, key)
}

// issue makes a key and a certificate for it, signed by the authority.
func (a authority) issue(template x509.Certificate) (authority, error) {
	key, err := newKey()
	if err != nil {
		return authority{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return sign(template, a.crt, key, a.key)
}

func sign(template x509.Certificate, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (authority, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return authority{}, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(365 * 24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, by)
	if err != nil {
		return authority{}, err
	}
	crt, err := x509.ParseCertificate(der)
	return authority{der: der, crt: crt, key: key}, err
}

func (a authority) write(certFile, keyFile string) error {
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.der}), 0o644); err != nil {
		return err
	}
	return writeKey(keyFile, a.key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
