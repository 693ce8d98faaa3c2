package main

type (
	benchCommand      struct{}
	benchRelayCommand struct{}
	benchBotsCommand  struct{}
	benchLoadCommand  struct{}
)
