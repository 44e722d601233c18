package hubble

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/go-logr/logr/testr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// TestCheckAddress: what others can reach needs all of TLS.
func TestCheckAddress(t *testing.T) {
	whole := TLSFiles{Cert: "c", Key: "k", ClientCA: "a"}
	for _, one := range []struct {
		address string
		files   TLSFiles
		pass    bool
	}{
		{"", TLSFiles{}, true},
		{"0", TLSFiles{}, true},
		{"127.0.0.1:4244", TLSFiles{}, true},
		{"127.8.0.1:4244", TLSFiles{}, true},
		{"[::1]:4244", TLSFiles{}, true},
		{"[::ffff:127.0.0.1]:4244", TLSFiles{}, true},
		{":4244", TLSFiles{}, false},
		{"0.0.0.0:4244", TLSFiles{}, false},
		{"[::]:4244", TLSFiles{}, false},
		{"10.0.0.1:4244", TLSFiles{}, false},
		{"localhost:4244", TLSFiles{}, false},
		{"127.0.0.1", TLSFiles{}, false},
		{"127.0.0.1:", TLSFiles{}, false},
		{"127.0.0.1:0", TLSFiles{}, false},
		{":4244", whole, true},
		{"10.0.0.1:4244", whole, true},
		{"node-1:4244", whole, false},
		{":4244", TLSFiles{Cert: "c", Key: "k"}, false},
		{"127.0.0.1:4244", TLSFiles{Cert: "c", ClientCA: "a"}, false},
		{"127.0.0.1:4244", TLSFiles{ClientCA: "a"}, false},
	} {
		err := CheckAddress(one.address, one.files)
		if (err == nil) != one.pass {
			t.Errorf("%s with %+v: %v", one.address, one.files, err)
		}
		if _, also := New(Options{Address: one.address, TLS: one.files}); (also == nil) != one.pass {
			t.Errorf("%s with %+v: a server: %v", one.address, one.files, also)
		}
	}
}

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, _ = a.issue("ca", true)
	return a
}

// issue makes a certificate, with its PEM.
func (a *authority) issue(name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: ca,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if ca {
		template.KeyUsage |= x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// write writes a certificate and its key into files.
func (a *authority) write(name, cert, key string) {
	a.t.Helper()
	_, private, text := a.issue(name, false)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	replace(a.t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	replace(a.t, cert, text)
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// client is a client's configuration, with a certificate of issuer, which trusts servers of trusted. Without an
// issuer it has none.
func client(issuer, trusted *authority) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool(), ServerName: "node-1.default.hubble-grpc.cilium.io"}
	c.RootCAs.AddCert(trusted.cert)
	if issuer != nil {
		cert, key, _ := issuer.issue("relay", false)
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	}
	return c
}

// TestTLS: clients need a certificate of the CA, and the server's certificate and the CA may change while
// it runs.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files := TLSFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt")}
	first, second := newAuthority(t), newAuthority(t)
	const name = "node-1.default.hubble-grpc.cilium.io"
	address := freeAddress(t)
	server, err := New(Options{Address: address, TLS: files, Node: "node-1", Version: "v1", Store: stored(4, denied(0)), Peers: func() []Peer { return nil }, Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	first.write(name, files.Cert, files.Key)
	replace(t, files.ClientCA, first.pem())
	go func() { ended <- server.Start(ctx) }()
	ask := func(c *tls.Config) error {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(c)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = observerpb.NewObserverClient(conn).ServerStatus(ctx, &observerpb.ServerStatusRequest{})
		return err
	}
	waitFor(t, "answer", func() bool { return ask(client(first, first)) == nil })
	for why, c := range map[string]*tls.Config{"no certificate": client(nil, first), "another CA's certificate": client(second, first)} {
		if err := ask(c); err == nil {
			t.Errorf("a client with %s is served", why)
		}
	}
	old := client(first, first)
	old.MinVersion, old.MaxVersion = 0, tls.VersionTLS12
	if err := ask(old); err == nil {
		t.Error("a client with TLS 1.2 is served")
	}

	replace(t, files.ClientCA, second.pem())
	if err := ask(client(second, first)); err != nil {
		t.Errorf("with a certificate of the new CA: %v", err)
	}
	if err := ask(client(first, first)); err == nil {
		t.Error("a client with a certificate of the old CA is served")
	}
	second.write(name, files.Cert, files.Key)
	waitFor(t, "new certificate", func() bool { return ask(client(second, second)) == nil })
	replace(t, files.ClientCA, []byte("none"))
	if err := ask(client(second, second)); err == nil {
		t.Error("a client is served where the CA's file has no certificate")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// freeAddress is an address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestListensLater: a server whose address is taken, or whose certificate is not there yet, serves when that
// has changed.
func TestListensLater(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(Options{Address: taken.Addr().String(), Store: stored(1), Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.listen(t.Context()); err == nil {
		t.Error("it listens at an address that is taken")
	}
	dir := t.TempDir()
	missing := TLSFiles{Cert: filepath.Join(dir, "c"), Key: filepath.Join(dir, "k"), ClientCA: filepath.Join(dir, "a")}
	if without, err := New(Options{Address: freeAddress(t), TLS: missing, Store: stored(1), Log: testr.New(t)}); err != nil {
		t.Error(err)
	} else if err := without.listen(t.Context()); err == nil {
		t.Error("it serves without its certificate")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Start(ctx) }()
	taken.Close()
	waitFor(t, "server", func() bool {
		conn, err := net.Dial("tcp", server.options.Address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
