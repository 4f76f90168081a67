package repository

// Half of the time of these tests would be spent in making guessing slow.
func init() { keyDerivation = "pbkdf2-sha256-600000" }
