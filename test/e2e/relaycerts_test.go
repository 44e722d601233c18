//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

// hubbleCA is a CA for Hubble's API, and the certificates that it has issued: one for the agents, and one for
// their clients, as docs/HUBBLE.md makes them by openssl.
type hubbleCA struct {
	pem            []byte
	server, client hubbleCert
}

// hubbleCert is a certificate with its key, in PEM.
type hubbleCert struct{ cert, key []byte }

func newHubbleCA(t *testing.T) *hubbleCA {
	t.Helper()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hubble-ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key := check.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	c := &hubbleCA{pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: check.Value(x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key))(t)})}
	issue := func(serial int64, name string, usage x509.ExtKeyUsage) hubbleCert {
		own := check.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(serial), DNSNames: []string{name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}
		return hubbleCert{
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: check.Value(x509.CreateCertificate(rand.Reader, cert, ca, own.Public(), key))(t)}),
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: check.Value(x509.MarshalPKCS8PrivateKey(own))(t)}),
		}
	}
	c.server = issue(2, "*.default.hubble-grpc.cilium.io", x509.ExtKeyUsageServerAuth)
	c.client = issue(3, "*.hubble-relay.cilium.io", x509.ExtKeyUsageClientAuth)
	return c
}

// putSecrets makes the Secrets of the agents and of the relay, or replaces what is in them.
func (c *hubbleCA) putSecrets(t *testing.T) {
	t.Helper()
	secrets := client.CoreV1().Secrets(agentNamespace)
	for name, of := range map[string]hubbleCert{"hubble-server": c.server, "hubble-client": c.client} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"tls.crt": of.cert, "tls.key": of.key, "ca.crt": c.pem}}
		_, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{})
		switch {
		case apierrors.IsAlreadyExists(err):
			check.Value(secrets.Update(t.Context(), secret, metav1.UpdateOptions{}))(t)
		case err != nil:
			t.Fatal(err)
		default:
			t.Cleanup(func() {
				if err := secrets.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// connect makes a connection to the agent of a node by TLS, in which both sides show certificates of this CA.
func (c *hubbleCA) connect(node string) error {
	mine, err := tls.X509KeyPair(c.client.cert, c.client.key)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.pem) {
		return fmt.Errorf("no certificate in %s", c.pem)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	address := map[string]string{"node1": cluster.NodeIP(1), "node2": cluster.NodeIP(2)}[node]
	plain, err := dialFrom(ctx, "cp", hostPort(address, 4244))
	if err != nil {
		return err
	}
	defer plain.Close()
	conn := tls.Client(plain, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, RootCAs: roots, Certificates: []tls.Certificate{mine},
		ServerName: node + ".default.hubble-grpc.cilium.io",
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("the agent's certificate: %w", err)
	}
	// The server looks at the client's certificate after the client's handshake: what it says of it is read.
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the agent on the client's certificate: %w", err)
	}
	return nil
}
