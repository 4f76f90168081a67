package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority signs certificates.
type authority struct {
	name string
	cert *x509.Certificate
	key  crypto.Signer
}

// writeCertificates makes all keys and certificates and the kubeconfigs that
// hold them. As in real clusters, etcd and the front proxy have authorities
// of their own: a client of one is nobody to the others.
func (c *Cluster) writeCertificates() error {
	main, err := c.newAuthority("ca", "kubernetes-"+c.Name)
	if err != nil {
		return err
	}
	etcd, err := c.newAuthority("etcd-ca", "etcd-"+c.Name)
	if err != nil {
		return err
	}
	front, err := c.newAuthority("front-proxy-ca", "front-proxy-"+c.Name)
	if err != nil {
		return err
	}
	loopback := []string{"localhost", "127.0.0.1"}
	server := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		serverAddress(c.state.Network),
	}, loopback...)
	for _, pair := range []struct {
		signer  *authority
		file    string
		subject pkix.Name
		names   []string
	}{
		{etcd, "etcd", pkix.Name{CommonName: "etcd"}, loopback},
		{etcd, "etcd-client", pkix.Name{CommonName: "kube-apiserver"}, nil},
		{main, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, server},
		{main, "apiserver-kubelet-client", pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}}, nil},
		{main, "kubelet", pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}, loopback},
		{main, metadataService, pkix.Name{CommonName: metadataService}, []string{metadataHost}},
		{front, "front-proxy", pkix.Name{CommonName: "front-proxy-client"}, nil},
	} {
		if _, _, err := c.issue(pair.signer, pair.file, pair.subject, pair.names); err != nil {
			return err
		}
	}
	if _, err := c.newKey("service-account"); err != nil {
		return err
	}
	for _, user := range []struct {
		file    string
		subject pkix.Name
	}{
		{"admin", pkix.Name{CommonName: "kubectl-backup-admin", Organization: []string{"system:masters"}}},
		{"kube-controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}},
		{"kube-scheduler", pkix.Name{CommonName: "system:kube-scheduler"}},
		{"kubelet", pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}},
		{"provisioner", pkix.Name{CommonName: "provisioner", Organization: []string{"system:masters"}}},
		{"snapshots", pkix.Name{CommonName: "snapshots", Organization: []string{"system:masters"}}},
		{metadataService, pkix.Name{CommonName: metadataService}},
		{"services", pkix.Name{CommonName: "services", Organization: []string{"system:masters"}}},
	} {
		cert, key, err := c.issue(main, "user-"+user.file, user.subject, nil)
		if err != nil {
			return err
		}
		if err := c.writeUserKubeconfig(user.file, main, cert, key); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) pki(file string) string { return filepath.Join(c.paths.pki, file) }

func (c *Cluster) kubeconfig(user string) string {
	return filepath.Join(c.paths.config, user+".kubeconfig")
}

func (c *Cluster) newAuthority(file, name string) (*authority, error) {
	key, err := c.newKey(file)
	if err != nil {
		return nil, err
	}
	template := certificate(pkix.Name{CommonName: name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", file, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{name: file, cert: cert, key: key}, writeFile(c.pki(file+".crt"), encode("CERTIFICATE", der), 0o644)
}

// issue makes a key and a certificate, for a server where names are given,
// and for a client in any case.
func (c *Cluster) issue(by *authority, file string, subject pkix.Name, names []string) (cert, key []byte, err error) {
	signer, err := c.newKey(file)
	if err != nil {
		return nil, nil, err
	}
	template := certificate(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(names) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, signer.Public(), by.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %s: %w", file, err)
	}
	cert = encode("CERTIFICATE", der)
	if key, err = encodeKey(signer); err != nil {
		return nil, nil, err
	}
	return cert, key, writeFile(c.pki(file+".crt"), cert, 0o644)
}

func certificate(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // rand.Reader never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
}

func (c *Cluster) newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(c.pki(file+".key"), b, 0o600)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("EC PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (c *Cluster) writeUserKubeconfig(user string, by *authority, cert, key []byte) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[c.Name] = &clientcmdapi.Cluster{
		Server:                   fmt.Sprintf("https://127.0.0.1:%d", c.state.Ports.APIServer),
		CertificateAuthorityData: encode("CERTIFICATE", by.cert.Raw),
	}
	config.AuthInfos[c.Name+"-"+user] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: c.Name + "-" + user}
	config.CurrentContext = c.Name
	b, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return writeFile(c.kubeconfig(user), b, 0o600)
}

// writeKubeconfig merges the administrators' kubeconfigs of all clusters
// below a base directory.
func writeKubeconfig(base string) error {
	merged := clientcmdapi.NewConfig()
	for _, name := range Names {
		p := newPaths(base, name)
		if !exists(p.adminKubeconfig()) {
			continue
		}
		config, err := clientcmd.LoadFromFile(p.adminKubeconfig())
		if err != nil {
			return err
		}
		for k, v := range config.Clusters {
			v.LocationOfOrigin = ""
			merged.Clusters[k] = v
		}
		for k, v := range config.AuthInfos {
			v.LocationOfOrigin = ""
			merged.AuthInfos[k] = v
		}
		for k, v := range config.Contexts {
			v.LocationOfOrigin = ""
			merged.Contexts[k] = v
		}
		if merged.CurrentContext == "" {
			merged.CurrentContext = name
		}
	}
	b, err := clientcmd.Write(*merged)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(base, "kubeconfig"), b, 0o600)
}
