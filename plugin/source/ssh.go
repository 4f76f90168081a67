package source

import (
	"net"
	"os"
	"path/filepath"

	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// sshAuth logs in with the password of the URL, else with the keys of the SSH
// agent and the usual key files. The server's own key is always checked
// against the known hosts.
func sshAuth(user, password string) gitssh.AuthMethod {
	if user == "" {
		user = gitssh.DefaultUsername
	}
	if password != "" {
		return &gitssh.Password{User: user, Password: password}
	}
	return &gitssh.PublicKeysCallback{User: user, Callback: signers}
}

// signers offers what is there. A key that cannot be used, for one because it
// has a passphrase, is left out: the agent may hold it.
func signers() ([]ssh.Signer, error) {
	var all []ssh.Signer
	if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
		// The connection is used by the signers until the process ends.
		if connection, err := net.Dial("unix", socket); err == nil {
			if held, err := agent.NewClient(connection).Signers(); err == nil {
				all = append(all, held...)
			}
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return all, nil
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		pem, err := os.ReadFile(filepath.Join(home, ".ssh", name))
		if err != nil {
			continue
		}
		if signer, err := ssh.ParsePrivateKey(pem); err == nil {
			all = append(all, signer)
		}
	}
	return all, nil
}
