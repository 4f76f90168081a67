package rewrite

func (s *compiled) profiles(d *Draft, out *Result) error { return nil }
