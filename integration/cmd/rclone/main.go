// Command rclone is rclone reduced to what the tests need: its servers (S3,
// SFTP, WebDAV) in front of a local folder. It is built from the same module
// that the plugin links, so tests speak to a real server over the wire.
package main

import (
	_ "github.com/rclone/rclone/backend/local"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/serve"
	_ "github.com/rclone/rclone/cmd/serve/s3"
	_ "github.com/rclone/rclone/cmd/serve/sftp"
	_ "github.com/rclone/rclone/cmd/serve/webdav"
)

func main() { cmd.Main() }
