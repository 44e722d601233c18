package hubble

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// TLSFiles are files in PEM by which a server proves who it is, and clients must: mutual TLS. They are read
// again when they change. All three are needed.
type TLSFiles struct {
	// Cert and Key are the server's, and ClientCA those that may have issued clients' certificates.
	Cert, Key, ClientCA string
}

// Given reports whether there are any.
func (f TLSFiles) Given() bool { return f != TLSFiles{} }

// CheckAddress refuses an address that is none, one that other machines can reach without TLS, and TLS of
// which a part is missing. Empty and "0", by which there is no server, pass.
func CheckAddress(address string, files TLSFiles) error {
	if address == "" || address == "0" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || port == "0" {
		return fmt.Errorf("%q is no address with a port, such as 127.0.0.1:4244", address)
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return fmt.Errorf("%q has a name, and not an IP address: write one, such as 127.0.0.1:4244, or :4244 for all of the node's", address)
		}
	}
	switch {
	case files.Given() && (files.Cert == "" || files.Key == "" || files.ClientCA == ""):
		return errors.New("TLS needs three files: a certificate, its key, and the CA of the clients, who must have certificates too")
	case !files.Given() && !isLoopback(host):
		return fmt.Errorf("%q can be reached from other machines, and whoever reaches it reads who talks to whom: give the files of TLS, or a loopback address, such as 127.0.0.1:4244", address)
	}
	return nil
}

// isLoopback reports whether a host is a loopback address.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// config is the server's configuration. certificate is the one that it has now. The clients' CA is read at
// each handshake: there are few, and so it is never an old one.
func (f TLSFiles) config(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, GetCertificate: certificate,
		ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
	}
	config := base.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pem, err := os.ReadFile(f.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("reading the CA of clients: %w", err)
		}
		now := base.Clone()
		now.ClientCAs = x509.NewCertPool()
		if !now.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA of clients, %s, has no certificate in PEM", f.ClientCA)
		}
		return now, nil
	}
	return config
}
