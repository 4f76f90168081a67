package mover

// Gone says whether the process that an owner annotation names is known to
// have ended: it was on this machine, and is no more.
func Gone(owner string) bool { return lifeOf(owner) == gone }

// Alive says whether that process is known to run.
func Alive(owner string) bool { return lifeOf(owner) == alive }
