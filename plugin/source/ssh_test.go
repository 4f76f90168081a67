package source

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// serveSSH is an SSH server on loopback that runs git-upload-pack for the key
// in ~/.ssh and for one password. Home and known hosts are the test's own.
func serveSSH(t *testing.T, root string) (address string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	write(t, home, map[string]string{".ssh/id_ed25519": string(pem.EncodeToMemory(block)), ".ssh/id_rsa": "not a key"})
	accepted, err := ssh.NewPublicKey(public)
	require.NoError(t, err)

	_, hostPrivate, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	hostKey, err := ssh.NewSignerFromKey(hostPrivate)
	require.NoError(t, err)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() == "git" && string(key.Marshal()) == string(accepted.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("refused")
		},
		PasswordCallback: func(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if c.User() == "git" && string(password) == "hush-ssh" {
				return nil, nil
			}
			return nil, errors.New("refused")
		},
	}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	known := filepath.Join(home, ".ssh", "known_hosts")
	require.NoError(t, os.WriteFile(known, []byte(knownhosts.Line([]string{listener.Addr().String()}, hostKey.PublicKey())+"\n"), 0o600))
	t.Setenv("SSH_KNOWN_HOSTS", known)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serveConnection(connection, config, root)
		}
	}()
	return listener.Addr().String()
}

func serveConnection(connection net.Conn, config *ssh.ServerConfig, root string) {
	server, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return
	}
	defer server.Close()
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			defer channel.Close()
			for r := range requests {
				if r.Type != "exec" {
					_ = r.Reply(false, nil)
					continue
				}
				_ = r.Reply(true, nil)
				status := uploadPack(channel, root, string(r.Payload[4:]))
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
				return
			}
		}()
	}
}

func uploadPack(channel io.ReadWriter, root, command string) uint32 {
	name, ok := strings.CutPrefix(command, "git-upload-pack ")
	if !ok {
		return 1
	}
	run := exec.Command("git", "upload-pack", filepath.Join(root, strings.Trim(name, "'")))
	run.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	// A pipe of its own: the client leaves its side open until it has seen the
	// exit status, and must not keep the command waiting.
	stdin, err := run.StdinPipe()
	if err != nil {
		return 1
	}
	go func() {
		_, _ = io.Copy(stdin, channel)
		stdin.Close()
	}()
	run.Stdout = channel
	if err := run.Run(); err != nil {
		return 1
	}
	return 0
}

func TestSSHRefusals(t *testing.T) {
	address := serveSSH(t, bareCopy(t, newHistory(t)))
	load := func() error {
		_, err := Load(ctx, Request{Files: []string{"git::ssh://git@" + address + "/r.git//policies"}})
		return err
	}
	require.NoError(t, load())

	_, err := Load(ctx, Request{Files: []string{"git::ssh://git:hush-wrong@" + address + "/r.git"}})
	require.ErrorContains(t, err, "unable to authenticate")
	require.NotContains(t, err.Error(), "hush")

	_, err = Load(ctx, Request{Files: []string{"git::ssh://git@" + address + "/none.git"}})
	require.ErrorContains(t, err, "read Git repository ssh://git@"+address+"/none.git")

	known := os.Getenv("SSH_KNOWN_HOSTS")
	require.NoError(t, os.WriteFile(known, nil, 0o600))
	require.ErrorContains(t, load(), "add the host's key to ~/.ssh/known_hosts")

	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_KNOWN_HOSTS", known)
	require.Error(t, load())
}
