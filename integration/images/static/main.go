// Command static is all that its image holds: it writes files into a
// directory and sleeps. There is no shell, no tar, nothing to execute in the
// container but this.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	dir := flag.String("dir", "", "directory to write into; none: write nothing")
	files := flag.Int("files", 3, "number of files, called file-0 and so on")
	size := flag.Int("bytes", 4096, "bytes per file: the file's name, repeated")
	flag.Parse()
	if *dir != "" {
		if err := write(*dir, *files, *size); err != nil {
			fmt.Fprintln(os.Stderr, "static:", err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

func write(dir string, files, size int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range files {
		name := fmt.Sprintf("file-%d", i)
		content := bytes.Repeat([]byte(name), size/len(name)+1)[:size]
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
